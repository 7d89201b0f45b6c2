"""Device code of the adder operator, in Triton.

A program computes a tile of (rows x columns) sums. As in a matrix product both operands are rows of
consecutive terms, `[rows, U]` and `[columns, U]`, which travel through shared memory in a pipeline;
unlike in a matrix product no instruction multiplies them as blocks, so the tile has to lie in
registers the way the sums need it. A tile is therefore a tensor of four dimensions,

    [RP, RC, LP, LC]:  RP x RC sums in the registers of one thread, LP x LC threads.

Triton's default layout gives the last dimensions to threads and the rest to registers, which is
exactly that. Taking an operand apart by `tl.split` costs nothing: it only names registers.

Every sum is added up in one order that depends on the geometry alone, and nothing is added up in
global memory: results are the same, bit for bit, in every run.

Legend: channels and filters of one group; P positions of all images; K terms of a sum.
"""

# The annotations of a kernel are read by Triton: no `from __future__ import annotations` here.
import triton
import triton.language as tl

from mulfree._triton import interpreted

INTERPRETED = tl.constexpr(interpreted())


@triton.jit
def _magnitude(d, NORM: tl.constexpr):
    """`|d|^NORM`."""
    d = tl.abs(d)
    if NORM == 2.0:
        d = d * d
    elif NORM != 1.0:
        # 0 has no logarithm; a NaN stays one.
        some = d != 0.0
        d = tl.where(some, tl.exp2(NORM * tl.log2(tl.where(some, d, 1.0))), 0.0)
    return d


@triton.jit
def _rule(d, RULE: tl.constexpr, NORM: tl.constexpr):
    """Replacement of the derivative of a tap of difference `d` (see `gradient.py`).

    "clamp" is the adder rule towards the input, "identity" the one towards the weight.
    """
    if RULE == "clamp":
        d = tl.clamp(d, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    elif RULE == "lp":
        size = NORM * _magnitude(d, NORM - 1.0)
        d = tl.where(d > 0.0, size, tl.where(d < 0.0, -size, d))
    elif RULE == "sign":
        d = tl.where(d > 0.0, 1.0, tl.where(d < 0.0, -1.0, d))
    return d


@triton.jit
def _halves(a, R: tl.constexpr, L: tl.constexpr, U: tl.constexpr):
    """The first and the second half of the terms, which are next to each other in registers."""
    return tl.split(tl.permute(tl.reshape(a, (R, L, 2, U // 2)), (0, 1, 3, 2)))


@triton.jit
def _add_distances(
    acc, a, b, NORM: tl.constexpr, RP: tl.constexpr, LP: tl.constexpr,
    RC: tl.constexpr, LC: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """`acc + sum_u |a_u - b_u|^NORM` for rows `a` `[RP LP U]` and columns `b` `[RC LC U]`."""
    if U == 1:
        d = tl.reshape(a, (RP, 1, LP, 1)) - tl.reshape(b, (1, RC, 1, LC))
        acc += _magnitude(d, NORM)
    else:
        a0, a1 = _halves(a, RP, LP, U)
        b0, b1 = _halves(b, RC, LC, U)
        acc = _add_distances(acc, a0, b0, NORM, RP, LP, RC, LC, U // 2)
        acc = _add_distances(acc, a1, b1, NORM, RP, LP, RC, LC, U // 2)
    return acc


@triton.jit
def _unpack(pairs, BF16: tl.constexpr):
    """The two halves of 32-bit words, in float32."""
    if BF16:
        # A bfloat16 is the upper half of a float32.
        low = (pairs << 16).to(tl.float32, bitcast=True)
        high = (pairs & 0xFFFF0000).to(tl.float32, bitcast=True)
    else:
        low = (pairs & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
        high = (pairs >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    return low, high


@triton.jit
def _half_bits(value, BF16: tl.constexpr):
    """The bits of `value` rounded to a half, to nearest and ties to even."""
    if BF16:
        bits = value.to(tl.uint32, bitcast=True)
        bits = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    else:
        bits = value.to(tl.float16).to(tl.uint16, bitcast=True).to(tl.uint32)
    return bits


@triton.jit
def _add_packed_distance_spelt_out(acc, a, b, BF16: tl.constexpr):
    """`_add_packed_distance` in operations that the interpreter has, with the same roundings."""
    acc0, acc1 = _unpack(acc, BF16)
    a0, a1 = _unpack(a, BF16)
    b0, b1 = _unpack(b, BF16)
    d0, _ = _unpack(_half_bits(tl.abs(a0 - b0), BF16), BF16)
    d1, _ = _unpack(_half_bits(tl.abs(a1 - b1), BF16), BF16)
    return _half_bits(acc0 + d0, BF16) | (_half_bits(acc1 + d1, BF16) << 16)


@triton.jit
def _add_packed_distance(acc, a, b, BF16: tl.constexpr):
    """`acc + |a - b|` for both halves of 32-bit words, rounded to a half after each operation."""
    if INTERPRETED:
        acc = _add_packed_distance_spelt_out(acc, a, b, BF16)
    elif BF16:
        # Older than the addition, and as fast, is the multiply-add of bfloat16: by -1 and by 1.
        acc = tl.inline_asm_elementwise(
            """{
            .reg .b32 d, minus, one;
            mov.b32 minus, 0xBF80BF80;
            mov.b32 one, 0x3F803F80;
            fma.rn.bf16x2 d, $3, minus, $2;
            abs.bf16x2 d, d;
            fma.rn.bf16x2 $0, d, one, $1;
            }""",
            "=r,r,r,r", [acc, a, b], dtype=tl.uint32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        acc = tl.inline_asm_elementwise(
            """{
            .reg .b32 d;
            sub.rn.f16x2 d, $2, $3;
            abs.f16x2 d, d;
            add.rn.f16x2 $0, $1, d;
            }""",
            "=r,r,r,r", [acc, a, b], dtype=tl.uint32, is_pure=True, pack=1,
        )  # fmt: skip
    return acc


@triton.jit
def _add_packed_distances(
    acc, a, b, BF16: tl.constexpr, RP: tl.constexpr, LP: tl.constexpr,
    RC: tl.constexpr, LC: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """`_add_distances` on pairs of terms, as 32-bit words."""
    if U == 1:
        a = tl.broadcast_to(tl.reshape(a, (RP, 1, LP, 1)), (RP, RC, LP, LC))
        b = tl.broadcast_to(tl.reshape(b, (1, RC, 1, LC)), (RP, RC, LP, LC))
        acc = _add_packed_distance(acc, a, b, BF16)
    else:
        a0, a1 = _halves(a, RP, LP, U)
        b0, b1 = _halves(b, RC, LC, U)
        acc = _add_packed_distances(acc, a0, b0, BF16, RP, LP, RC, LC, U // 2)
        acc = _add_packed_distances(acc, a1, b1, BF16, RP, LP, RC, LC, U // 2)
    return acc


@triton.jit
def _add_rule(
    acc, fixed, a, b, RULE: tl.constexpr, NORM: tl.constexpr, RP: tl.constexpr, LP: tl.constexpr,
    RC: tl.constexpr, LC: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """`acc + sum_u rule(b_u - fixed) a_u`; `fixed` is a tile like `acc`."""
    if U == 1:
        d = tl.reshape(b, (1, RC, 1, LC)) - fixed
        acc += _rule(d, RULE, NORM) * tl.reshape(a, (RP, 1, LP, 1))
    else:
        a0, a1 = _halves(a, RP, LP, U)
        b0, b1 = _halves(b, RC, LC, U)
        acc = _add_rule(acc, fixed, a0, b0, RULE, NORM, RP, LP, RC, LC, U // 2)
        acc = _add_rule(acc, fixed, a1, b1, RULE, NORM, RP, LP, RC, LC, U // 2)
    return acc


@triton.jit
def _store_tile(
    pointers, acc, mask_rows, mask_columns, RP: tl.constexpr, LP: tl.constexpr,
    RC: tl.constexpr, LC: tl.constexpr, ROWS_LAST: tl.constexpr,
):  # fmt: skip
    """Store a tile; neighbouring threads hold neighbouring rows with ROWS_LAST."""
    mask = mask_rows[:, None] & mask_columns[None, :]
    tile = tl.reshape(tl.permute(acc, (0, 2, 1, 3)), (RP * LP, RC * LC))
    if ROWS_LAST:
        pointers, tile, mask = tl.trans(pointers), tl.trans(tile), tl.trans(mask)
    tl.store(pointers, tile, mask=mask)


@triton.jit
def forward_kernel(
    x, w, y, positions, channels, filters, height, width, out_height, out_width,
    x_n, x_h, x_w, y_n, y_c, y_p,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    GROUPS: tl.constexpr, NORM: tl.constexpr, PACKED: tl.constexpr, RP: tl.constexpr,
    LP: tl.constexpr, RC: tl.constexpr, LC: tl.constexpr, U: tl.constexpr, EVEN: tl.constexpr,
    ROWS_LAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`y[p, t] = -sum_k |x[p, k] - w[t, k]|^NORM`: rows are positions, columns filters.

    `x` has channels next to each other, `w` is `[C_out, K_h, K_w, C]`. PACKED: both are 32-bit
    words of two channels in the precision of `y`. Each half of a word then adds up U terms in that
    precision, and these short sums are added up in float32.
    """
    group, block = tl.program_id(0) % GROUPS, tl.program_id(0) // GROUPS
    p = block * (RP * LP) + tl.arange(0, RP * LP)
    t = tl.program_id(1) * (RC * LC) + tl.arange(0, RC * LC)
    k = tl.arange(0, U)
    column, row = p % out_width, (p // out_width) % out_height
    n = (p // (out_width * out_height)).to(tl.int64)
    x_rows = x + n * x_n + group * channels
    taps: tl.constexpr = KERNEL_H * KERNEL_W
    w_rows = w + (group * filters + t).to(tl.int64) * (taps * channels)
    chunks = tl.cdiv(channels, U)
    acc = tl.zeros((RP, RC, LP, LC), tl.float32)
    for step in tl.range(0, taps * chunks, num_stages=STAGES):
        tap = step // chunks
        c = (step - tap * chunks) * U
        h = row * STRIDE_H + (tap // KERNEL_W) * DILATION_H - PAD_H
        v = column * STRIDE_W + (tap % KERNEL_W) * DILATION_W - PAD_W
        seen = (p < positions) & (h >= 0) & (h < height) & (v >= 0) & (v < width)
        x_at = (x_rows + (h * x_h + v * x_w + c))[:, None] + k[None, :]
        w_at = (w_rows + (tap * channels + c))[:, None] + k[None, :]
        if EVEN:
            a = tl.load(x_at, mask=seen[:, None], other=0)
            b = tl.load(w_at, mask=(t < filters)[:, None], other=0)
        else:
            left = (c + k < channels)[None, :]
            a = tl.load(x_at, mask=seen[:, None] & left, other=0)
            b = tl.load(w_at, mask=(t < filters)[:, None] & left, other=0)
        if PACKED:
            BF16: tl.constexpr = y.dtype.element_ty == tl.bfloat16
            a, b = tl.reshape(a, (RP, LP, U)), tl.reshape(b, (RC, LC, U))
            some = tl.zeros((RP, RC, LP, LC), tl.uint32)
            some = _add_packed_distances(some, a, b, BF16, RP, LP, RC, LC, U)
            low, high = _unpack(some, BF16)
            acc += low + high
        else:
            a = tl.reshape(a.to(tl.float32), (RP, LP, U))
            b = tl.reshape(b.to(tl.float32), (RC, LC, U))
            acc = _add_distances(acc, a, b, NORM, RP, LP, RC, LC, U)
    place = n * y_n + (row * out_width + column) * y_p
    y_at = y + place[:, None] + ((group * filters + t) * y_c)[None, :]
    result = (-acc).to(y.dtype.element_ty)
    _store_tile(y_at, result, p < positions, t < filters, RP, LP, RC, LC, ROWS_LAST)


@triton.jit
def input_grad_kernel(
    g, x, w, out, channels, filters, height, width, out_height, out_width, phase_height,
    phase_width, positions, g_n, g_h, g_w, x_n, x_h, x_w, out_n, out_c, out_h, out_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    GROUPS: tl.constexpr, RULE: tl.constexpr, NORM: tl.constexpr, RP: tl.constexpr,
    LP: tl.constexpr, RC: tl.constexpr, LC: tl.constexpr, U: tl.constexpr, EVEN: tl.constexpr,
    ROWS_LAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`out[p, c] = sum_k rule(w[k, c] - x[p, c]) g[k, p]`: rows are pixels, columns channels.

    A gather: the pixels of one phase of the stride are met by the same taps, `first + i * apart`,
    so nothing is scattered. `g` and `x` have channels next to each other, `w` is
    `[K_h, K_w, C, C_out]`; a phase has `positions` pixels.
    """
    problems: tl.constexpr = GROUPS * STRIDE_H * STRIDE_W
    problem, block = tl.program_id(0) % problems, tl.program_id(0) // problems
    group, phase = problem % GROUPS, problem // GROUPS
    phase_h, phase_w = phase // STRIDE_W, phase % STRIDE_W
    first_h, apart_h, taps_h = _taps_of_phase(phase_h, KERNEL_H, STRIDE_H, PAD_H, DILATION_H)
    first_w, apart_w, taps_w = _taps_of_phase(phase_w, KERNEL_W, STRIDE_W, PAD_W, DILATION_W)
    p = block * (RP * LP) + tl.arange(0, RP * LP)
    c = tl.program_id(1) * (RC * LC) + tl.arange(0, RC * LC)
    k = tl.arange(0, U)
    column = (p % phase_width) * STRIDE_W + phase_w
    row = ((p // phase_width) % phase_height) * STRIDE_H + phase_h
    n = (p // (phase_width * phase_height)).to(tl.int64)
    inside = (p < positions) & (row < height) & (column < width)
    x_at = (x + n * x_n + (row * x_h + column * x_w) + group * channels)[:, None] + c[None, :]
    fixed = tl.load(x_at, mask=inside[:, None] & (c < channels)[None, :], other=0.0)
    fixed = tl.permute(tl.reshape(fixed.to(tl.float32), (RP, LP, RC, LC)), (0, 2, 1, 3))
    g_rows = g + n * g_n + group * filters
    all_filters = GROUPS * filters
    w_rows = w + c.to(tl.int64) * all_filters + group * filters
    chunks = tl.cdiv(filters, U)
    acc = tl.zeros((RP, RC, LP, LC), tl.float32)
    for step in tl.range(0, taps_h * taps_w * chunks, num_stages=STAGES):
        tap = step // chunks
        t = (step - tap * chunks) * U
        tap_h, tap_w = first_h + (tap // taps_w) * apart_h, first_w + (tap % taps_w) * apart_w
        h, met_h = _output_met(row, tap_h, out_height, STRIDE_H, PAD_H, DILATION_H)
        v, met_w = _output_met(column, tap_w, out_width, STRIDE_W, PAD_W, DILATION_W)
        seen = inside & met_h & met_w
        g_at = (g_rows + (h * g_h + v * g_w + t))[:, None] + k[None, :]
        w_tap = w_rows + ((tap_h * KERNEL_W + tap_w) * channels).to(tl.int64) * all_filters + t
        w_at = w_tap[:, None] + k[None, :]
        if EVEN:
            a = tl.load(g_at, mask=seen[:, None], other=0.0)
            b = tl.load(w_at, mask=(c < channels)[:, None], other=0.0)
        else:
            some = (t + k < filters)[None, :]
            a = tl.load(g_at, mask=seen[:, None] & some, other=0.0)
            b = tl.load(w_at, mask=(c < channels)[:, None] & some, other=0.0)
        a = tl.reshape(a.to(tl.float32), (RP, LP, U))
        b = tl.reshape(b.to(tl.float32), (RC, LC, U))
        acc = _add_rule(acc, fixed, a, b, RULE, NORM, RP, LP, RC, LC, U)
    if tl.max((acc != acc).to(tl.int32)) != 0:
        # Beyond the output 0 times a difference was added, which is NaN where an operand is not
        # finite. So once more, of the taps within it alone; 1 term at a time keeps this short.
        exact = tl.zeros((RP, RC, LP, LC), tl.float32)
        for step in tl.range(0, taps_h * taps_w * filters):
            tap, t = step // filters, step % filters
            tap_h, tap_w = first_h + (tap // taps_w) * apart_h, first_w + (tap % taps_w) * apart_w
            h, met_h = _output_met(row, tap_h, out_height, STRIDE_H, PAD_H, DILATION_H)
            v, met_w = _output_met(column, tap_w, out_width, STRIDE_W, PAD_W, DILATION_W)
            seen = inside & met_h & met_w
            w_tap = w_rows + ((tap_h * KERNEL_W + tap_w) * channels).to(tl.int64) * all_filters + t
            a = tl.load(g_rows + (h * g_h + v * g_w + t), mask=seen, other=0.0).to(tl.float32)
            b = tl.load(w_tap, mask=c < channels, other=0.0).to(tl.float32)
            rule = _rule(tl.reshape(b, (1, RC, 1, LC)) - fixed, RULE, NORM)
            term = rule * tl.reshape(a, (RP, 1, LP, 1))
            exact += tl.where(tl.reshape(seen, (RP, 1, LP, 1)), term, 0.0)
        acc = tl.where(acc != acc, exact, acc)
    place = n * out_n + (row * out_h + column * out_w)
    out_at = out + place[:, None] + ((group * channels + c) * out_c)[None, :]
    result = acc.to(out.dtype.element_ty)
    _store_tile(out_at, result, inside, c < channels, RP, LP, RC, LC, ROWS_LAST)


@triton.jit
def _output_met(pixel, tap, size, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr):
    """Position of the output whose tap meets a pixel, of the tap's phase, and if there is one."""
    # Exact by the choice of taps; negative ones are refused before they are divided.
    up = pixel + PAD - tap * DILATION
    position = up // STRIDE
    return position, (up >= 0) & (position < size)


@triton.jit
def _taps_of_phase(
    phase, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr
):
    """First tap that meets the pixels `phase` of every STRIDE, distance of taps, their number."""
    first = KERNEL
    second = KERNEL
    count = 0
    for i in tl.static_range(KERNEL):
        # Backwards, tap KERNEL - 1 - i; a multiple of STRIDE keeps the remainder positive.
        meets = (phase + PAD + ((STRIDE - 1) * KERNEL + 1 + i) * DILATION) % STRIDE == 0
        second = tl.where(meets, first, second)
        first = tl.where(meets, KERNEL - 1 - i, first)
        count += meets.to(tl.int32)
    return first, second - first, count


@triton.jit
def weight_grad_kernel(
    g, x, w, out, positions, share, channels, filters, height, width, out_height, out_width,
    g_n, g_p, x_n, x_h, x_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    GROUPS: tl.constexpr, BLOCKS: tl.constexpr, RULE: tl.constexpr, NORM: tl.constexpr,
    RP: tl.constexpr, LP: tl.constexpr, RC: tl.constexpr, LC: tl.constexpr, U: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """`out[s, t, k] = sum_p rule(x[p, k] - w[t, k]) g[p, t]` over share `s` of the positions.

    Rows are filters, columns channels of one tap. `g` and `x` have channels next to each
    other, `w` is `[C_out, K_h, K_w, C]`, `out` that for every share, in float32.
    """
    taps: tl.constexpr = KERNEL_H * KERNEL_W
    problems: tl.constexpr = GROUPS * taps
    problem, split = tl.program_id(0) % problems, tl.program_id(0) // problems
    group, tap = problem // taps, problem % taps
    t = (tl.program_id(1) // BLOCKS) * (RP * LP) + tl.arange(0, RP * LP)
    c = (tl.program_id(1) % BLOCKS) * (RC * LC) + tl.arange(0, RC * LC)
    place = (group * filters + t).to(tl.int64) * (taps * channels) + tap * channels
    at = place[:, None] + c[None, :]
    mask = (t < filters)[:, None] & (c < channels)[None, :]
    fixed = tl.load(w + at, mask=mask, other=0.0).to(tl.float32)
    fixed = tl.permute(tl.reshape(fixed, (RP, LP, RC, LC)), (0, 2, 1, 3))
    acc = tl.zeros((RP, RC, LP, LC), tl.float32)
    for start in tl.range(split * share, split * share + share, U, num_stages=STAGES):
        p = start + tl.arange(0, U)
        column, row = p % out_width, (p // out_width) % out_height
        n = (p // (out_width * out_height)).to(tl.int64)
        h = row * STRIDE_H + (tap // KERNEL_W) * DILATION_H - PAD_H
        v = column * STRIDE_W + (tap % KERNEL_W) * DILATION_W - PAD_W
        seen = (p < positions) & (h >= 0) & (h < height) & (v >= 0) & (v < width)
        g_at = (g + n * g_n + (p % (out_width * out_height)) * g_p + group * filters)[:, None] + t
        x_at = (x + n * x_n + (h * x_h + v * x_w) + group * channels)[:, None] + c
        a = tl.load(g_at, mask=(p < positions)[:, None] & (t < filters)[None, :], other=0.0)
        b = tl.load(x_at, mask=seen[:, None] & (c < channels)[None, :], other=0.0)
        a = tl.permute(tl.reshape(a.to(tl.float32), (U, RP, LP)), (1, 2, 0))
        b = tl.permute(tl.reshape(b.to(tl.float32), (U, RC, LC)), (1, 2, 0))
        acc = _add_rule(acc, fixed, a, b, RULE, NORM, RP, LP, RC, LC, U)
    tile = tl.reshape(tl.permute(acc, (0, 2, 1, 3)), (RP * LP, RC * LC))
    size = (GROUPS * filters).to(tl.int64) * (taps * channels)
    tl.store(out + split * size + at, tile, mask=mask)


# Depthwise: one channel in a group. There is nothing to share between filters, so a tile is plainly
# positions by filters, or the other way round where neighbouring positions are next to each other.


@triton.jit
def _oriented(p, t, LAST: tl.constexpr):
    """Positions and filters along the two dimensions of a tile; LAST: positions come last."""
    if LAST:
        p, t = p[None, :], t[:, None]
    else:
        p, t = p[:, None], t[None, :]
    return p, t


@triton.jit
def depthwise_forward_kernel(
    x, w, y, positions, filters, height, width, out_height, out_width,
    x_n, x_c, x_h, x_w, y_n, y_c, y_p,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    MULTIPLIER: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """`y[p, t] = -sum_k |x[p, t // MULTIPLIER, k] - w[k, t]|^NORM`; `w` is `[K_h, K_w, C_out]`."""
    p, t = _oriented(
        tl.program_id(0) * ROWS + tl.arange(0, ROWS),
        tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS),
        LAST,
    )
    column, row = p % out_width, (p // out_width) % out_height
    n = (p // (out_width * out_height)).to(tl.int64)
    x_at = x + n * x_n + (t // MULTIPLIER) * x_c
    acc = tl.zeros((COLUMNS, ROWS) if LAST else (ROWS, COLUMNS), tl.float32)
    for tap_h in tl.static_range(KERNEL_H):
        for tap_w in tl.static_range(KERNEL_W):
            h = row * STRIDE_H + tap_h * DILATION_H - PAD_H
            v = column * STRIDE_W + tap_w * DILATION_W - PAD_W
            seen = (p < positions) & (h >= 0) & (h < height) & (v >= 0) & (v < width)
            a = tl.load(x_at + h * x_h + v * x_w, mask=seen & (t < filters), other=0.0)
            b = tl.load(w + (tap_h * KERNEL_W + tap_w) * filters + t, mask=t < filters, other=0.0)
            acc += _magnitude(a.to(tl.float32) - b.to(tl.float32), NORM)
    place = n * y_n + (row * out_width + column) * y_p
    result = (-acc).to(y.dtype.element_ty)
    tl.store(y + place + t * y_c, result, mask=(p < positions) & (t < filters))


@triton.jit
def depthwise_input_grad_kernel(
    g, x, w, out, pixels, channels, height, width, out_height, out_width,
    g_n, g_c, g_p, x_n, x_c, x_h, x_w, out_n, out_c, out_h, out_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    MULTIPLIER: tl.constexpr, RULE: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """`out[p, c] = sum_k rule(w[k, c] - x[p, c]) g[k, p]` over taps and filters of a channel."""
    p, c = _oriented(
        tl.program_id(0) * ROWS + tl.arange(0, ROWS),
        tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS),
        LAST,
    )
    column, row = p % width, (p // width) % height
    n = (p // (width * height)).to(tl.int64)
    inside = (p < pixels) & (c < channels)
    x_at = x + n * x_n + c * x_c + row * x_h + column * x_w
    fixed = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
    acc = tl.zeros((COLUMNS, ROWS) if LAST else (ROWS, COLUMNS), tl.float32)
    for tap_h in tl.static_range(KERNEL_H):
        for tap_w in tl.static_range(KERNEL_W):
            up = row + PAD_H - tap_h * DILATION_H
            left = column + PAD_W - tap_w * DILATION_W
            h, v = up // STRIDE_H, left // STRIDE_W
            # Negative ones are excluded before their remainder is taken.
            met = (up >= 0) & (up % STRIDE_H == 0) & (left >= 0) & (left % STRIDE_W == 0)
            seen = inside & met & (h < out_height) & (v < out_width)
            for i in tl.static_range(MULTIPLIER):
                t = c * MULTIPLIER + i
                g_at = g + n * g_n + t * g_c + (h * out_width + v) * g_p
                a = tl.load(g_at, mask=seen, other=0.0).to(tl.float32)
                w_at = w + (tap_h * KERNEL_W + tap_w) * (channels * MULTIPLIER) + t
                b = tl.load(w_at, mask=c < channels, other=0.0).to(tl.float32)
                # 0 times a difference is NaN where an operand is not finite.
                acc += tl.where(seen, _rule(b - fixed, RULE, NORM) * a, 0.0)
    out_at = out + n * out_n + c * out_c + row * out_h + column * out_w
    tl.store(out_at, acc.to(out.dtype.element_ty), mask=inside)
