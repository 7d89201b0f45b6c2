// Forks of the process that loaded the library: the threads of OpenMP and of teams exist in the
// parent only, and a child that waits for them deadlocks.
#pragma once

namespace mulfree::sliding {

// Number of forks between the process that loaded the library and this one.
int forks();

}  // namespace mulfree::sliding
