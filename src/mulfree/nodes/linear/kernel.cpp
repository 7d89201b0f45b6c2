// The classifier.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/window/window_op.h"

namespace mulfree::nodes {
namespace {

// `sums` holds the i32 sums of the outputs, as bytes. A task has one pixel and so its own filters.
class Linear final : public NativeOp {
 public:
  Linear(const Value* x, const Value* sums, std::unique_ptr<PackedLayer> layer,
         std::vector<float> scale, std::vector<float> bias, i64 first)
      : NativeOp({x}, sums),
        layer_(std::move(layer)),
        scale_(std::move(scale)),
        bias_(std::move(bias)),
        first_(first) {}
  std::string describe() const override { return std::string("linear: ") + layer_->name(); }
  void prepare() override { layer_->set_row(reads()[0]->row()); }
  PackedLayer* layer() const override { return layer_.get(); }
  i64 tasks(int) const override { return layer_->tasks(1); }

 protected:
  void work(const Frame& frame, i64 task, i64 tasks) const override {
    Image image{};
    image.x = first_window(*reads()[0], {0, 0}, frame.arena);
    image.sums = reinterpret_cast<i32*>(writes()->origin(frame.arena));
    layer_->run(image, task, tasks);
    const auto [begin, end] = layer_->filters(task);
    for (i64 o = begin; o < end; ++o) {
      const auto at = static_cast<std::size_t>(o);
      frame.output[first_ + o] = static_cast<float>(image.sums[o]) * scale_[at] + bias_[at];
    }
  }

 private:
  std::unique_ptr<PackedLayer> layer_;
  std::vector<float> scale_, bias_;
  i64 first_;
};

void append(Builder& node, const Fields& fields) {
  const Value& x = node.read();
  const auto weight = fields.array<i8>("weight", {Fields::kAny, x.c * x.h * x.w});
  const i64 outputs = weight.shape[0];
  const Geometry geo = make_geometry("linear", Op::conv, {x.h, x.w, x.c}, {outputs, x.h, x.w, x.c},
                                     {1, 1}, {0, 0}, 1);
  const auto filters = static_cast<std::size_t>(outputs);
  auto layer = std::make_unique<PackedLayer>(
      node.kernels, Op::conv, geo, weight.data,
      Requantisation{std::vector<i32>(filters), std::vector<i64>(filters), 1, 0, 255, 0});
  const Value* const sums = node.scratch(static_cast<i64>(sizeof(i32)) * outputs, 1, 1);
  node.append(std::make_unique<Linear>(&x, sums, std::move(layer),
                                       fields.array<float>("scale", {outputs}),
                                       fields.array<float>("bias", {outputs}), node.end(outputs)));
  node.layer(geo);
}

const NodeKernel kernel("linear", append);

}  // namespace
}  // namespace mulfree::nodes
