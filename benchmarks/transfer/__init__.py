"""Transfer of real ImageNet weights to small data sets, and of such networks to adders."""
