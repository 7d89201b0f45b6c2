// The classifier.
#include "nodes/csrc/window/window_op.h"

namespace mulfree::nodes {

MULFREE_NODE(linear) {
  const Value& x = node.read();
  const auto weight = fields.array<i8>("weight", {Fields::kAny, x.c * x.h * x.w});
  const i64 outputs = weight.shape[0], first = node.end(outputs);
  const Geometry geo = make_geometry("linear", Op::conv, {x.h, x.w, x.c}, {outputs, x.h, x.w, x.c},
                                     {1, 1}, {0, 0}, 1);
  const auto filters = static_cast<std::size_t>(outputs);
  auto packed =
      node.pack(Op::conv, geo, weight.data,
                Requantisation{std::vector<i32>(filters), std::vector<i64>(filters), 1, 0, 255, 0});
  const std::vector<float> scale = fields.array<float>("scale", {outputs});
  const std::vector<float> bias = fields.array<float>("bias", {outputs});
  // i32, as bytes.
  const Value* const sums = node.scratch(static_cast<i64>(sizeof(i32)) * outputs, 1, 1);
  const auto work = [from = &x, sums, layer = packed.get(), scale, bias, first](
                        const Frame& frame, i64 task, i64 tasks) {
    Image image{};
    image.x = first_window(*from, {0, 0}, frame.arena);
    image.sums = reinterpret_cast<i32*>(sums->origin(frame.arena));
    layer->run(image, task, tasks);
    const auto [begin, end] = layer->filters(task);
    for (i64 o = begin; o < end; ++o) {
      const auto at = static_cast<std::size_t>(o);
      frame.output[first + o] = static_cast<float>(image.sums[o]) * scale[at] + bias[at];
    }
  };
  append_layer(node, {{&x}, sums, work, std::move(packed), true});
}

}  // namespace mulfree::nodes
