#include "builder.h"

#include <algorithm>

namespace mulfree::nodes {
namespace {

void check_shape(const std::string& op, const std::string& name, const Value& value, i64 c, i64 h,
                 i64 w) {
  if (value.c != c || value.h != h || value.w != w) {
    fail(op, name, "have shape " + text(std::vector<i64>{c, h, w}),
         text(std::vector<i64>{value.c, value.h, value.w}));
  }
}

}  // namespace

const Value& Builder::read(std::size_t index) const {
  if (index >= reads_.size()) {
    fail(op_, "reads", "be more than " + std::to_string(index), std::to_string(reads_.size()));
  }
  return *reads_[index];
}

const Value& Builder::read(std::size_t index, i64 c, i64 h, i64 w) const {
  const Value& value = read(index);
  check_shape(op_, "reads[" + std::to_string(index) + "]", value, c, h, w);
  return value;
}

const Value& Builder::write(i64 c, i64 h, i64 w) const {
  if (writes_ == nullptr) fail(op_, "writes", "be a value", "None");
  check_shape(op_, "writes", *writes_, c, h, w);
  return *writes_;
}

i64 Builder::end(i64 outputs) {
  if (writes_ != nullptr) fail(op_, "writes", "be None for a node that ends", "a value");
  outputs_ = outputs;
  return first_output_;
}

std::unique_ptr<PackedLayer> Builder::pack(Op op, const Geometry& geometry, const void* weight,
                                           const Requantisation& requantisation) const {
  auto weights = pool_ == nullptr
                     ? std::make_shared<const PackedWeights>(kernels_, op, geometry, weight)
                     : pool_->packed(kernels_, op, geometry, weight);
  return std::make_unique<PackedLayer>(std::move(weights), geometry, requantisation);
}

const Value* Builder::append(NativeOp op) {
  ops_.push_back(std::move(op));
  return ops_.back().writes;
}

const Value* Builder::scratch(i64 c, i64 h, i64 w, const Value* home) {
  scratch_.push_back({c, h, w, 0});
  scratch_.back().home = home;
  return &scratch_.back();
}

void Builder::reserve(const Geometry& geo) {
  Value& x = *reads_[0];
  x.border_h = std::max(x.border_h, geo.border.first);
  x.border_w = std::max(x.border_w, geo.border.second);
  work_ += static_cast<double>(geo.o) * static_cast<double>(geo.ho * geo.wo) *
           static_cast<double>(geo.summands());
}

std::map<std::string, NodeKernel>& node_kernels() {
  static std::map<std::string, NodeKernel> kernels;
  return kernels;
}

}  // namespace mulfree::nodes
