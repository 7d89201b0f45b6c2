#include "window_op.h"

#include "nodes/csrc/epilogue.h"

namespace mulfree::nodes {

void append_layer(Builder& node, NativeOp op) {
  node.set_name(op.layer->name());
  node.reserve(op.layer->geometry());
  node.append(std::move(op));
}

template <class W>
void append_window(Builder& node, const Fields& fields, Op op) {
  const Value& x = node.read();
  const auto weight = fields.array<W>("weight", std::vector<i64>(4, Fields::kAny));
  const auto& axes = weight.shape;
  const Geometry geo = make_geometry(
      fields.op(), op, {x.h, x.w, x.c}, {axes[0], axes[1], axes[2], axes[3]},
      fields.pair("stride", 1), fields.pair("padding", 0), fields.number("groups", 1, kMaxBytes),
      fields.pair("padding_excess", -kMaxBytes));
  const Value& y = node.write(geo.o, geo.ho, geo.wo);
  std::vector<const Value*> reads = {&x};
  if (node.reads() > 1) reads.push_back(&node.read(1, y.c, y.h, y.w));
  const Clamp clamp(fields);
  const Requantisation requantisation{fields.array<i32>("multiplier", {geo.o}),
                                      fields.array<i64>("offset", {geo.o}),
                                      clamp.shift,
                                      clamp.low,
                                      clamp.high,
                                      fields.number32("residual_multiplier")};
  auto packed = node.pack(op, geo, weight.data, requantisation);
  const auto work = [layer = packed.get(), reads, to = &y](const Frame& frame, i64 task,
                                                           i64 tasks) {
    Image image{};
    image.x = first_window(*reads[0], layer->geometry().padding, frame.arena);
    image.y = to->origin(frame.arena);
    image.y_row = to->row();
    image.y_pixel = to->c;
    if (reads.size() > 1) {
      image.residual = reads[1]->origin(frame.arena);
      image.residual_row = reads[1]->row();
      image.residual_pixel = to->c;
    }
    layer->run(image, task, tasks);
  };
  append_layer(node, {reads, &y, work, std::move(packed)});
}

template void append_window<u8>(Builder& node, const Fields& fields, Op op);
template void append_window<i8>(Builder& node, const Fields& fields, Op op);

}  // namespace mulfree::nodes
