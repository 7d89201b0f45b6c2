#include "window_op.h"

#include "nodes/csrc/epilogue.h"

namespace mulfree::nodes {
namespace {

class WindowOp final : public NativeOp {
 public:
  WindowOp(std::string op, const Value* x, const Value* y, const Value* residual,
           std::unique_ptr<PackedLayer> layer)
      : NativeOp(residual == nullptr ? std::vector{x} : std::vector{x, residual}, y),
        op_(std::move(op)),
        layer_(std::move(layer)) {}
  std::string describe() const override { return op_ + ": " + layer_->name(); }
  void prepare() override { layer_->set_row(reads()[0]->row()); }
  PackedLayer* layer() const override { return layer_.get(); }
  i64 tasks(int team) const override { return layer_->tasks(team); }

 protected:
  void work(const Frame& frame, i64 task, i64 tasks) const override {
    const Value &x = *reads()[0], &y = *writes();
    Image image{};
    image.x = first_window(x, layer_->geometry().padding, frame.arena);
    image.y = y.origin(frame.arena);
    image.y_row = y.row();
    image.y_pixel = y.c;
    if (reads().size() > 1) {
      image.residual = reads()[1]->origin(frame.arena);
      image.residual_row = reads()[1]->row();
      image.residual_pixel = y.c;
    }
    layer_->run(image, task, tasks);
  }

 private:
  std::string op_;
  std::unique_ptr<PackedLayer> layer_;
};

}  // namespace

template <class W>
void append_window(Builder& node, const Fields& fields, Op op) {
  const Value& x = node.read();
  const auto weight = fields.array<W>("weight", std::vector<i64>(4, Fields::kAny));
  const auto& axes = weight.shape;
  const Geometry geo = make_geometry(
      fields.op(), op, {x.h, x.w, x.c}, {axes[0], axes[1], axes[2], axes[3]},
      fields.pair("stride", 1), fields.pair("padding", 0), fields.number("groups", 1, kMaxBytes));
  const Value& y = node.write(geo.o, geo.ho, geo.wo);
  const Value* const residual = node.reads() > 1 ? &node.read(1, y.c, y.h, y.w) : nullptr;
  const Clamp clamp(fields);
  const Requantisation requantisation{fields.array<i32>("multiplier", {geo.o}),
                                      fields.array<i64>("offset", {geo.o}),
                                      clamp.shift,
                                      clamp.low,
                                      clamp.high,
                                      fields.number32("residual_multiplier")};
  node.append(std::make_unique<WindowOp>(
      fields.op(), &x, &y, residual,
      std::make_unique<PackedLayer>(node.kernels, op, geo, weight.data, requantisation)));
  node.layer(geo);
}

template void append_window<u8>(Builder& node, const Fields& fields, Op op);
template void append_window<i8>(Builder& node, const Fields& fields, Op op);

}  // namespace mulfree::nodes
