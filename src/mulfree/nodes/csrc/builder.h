// One node of a program while its kernel appends ops, and the registry of kernels.
#pragma once

#include <deque>

#include "fields.h"
#include "native_op.h"

namespace mulfree::nodes {

class Builder {
 public:
  // `pool` is null for weights of its own; `writes` is null for a node that ends; its outputs start
  // at `first_output`.
  Builder(const std::string& op, const Kernels& kernels, WeightPool* pool,
          std::vector<Value*> reads, const Value* writes, i64 first_output,
          std::deque<Value>& scratch)
      : op_(op),
        kernels_(kernels),
        pool_(pool),
        reads_(std::move(reads)),
        writes_(writes),
        first_output_(first_output),
        scratch_(scratch) {}

  std::size_t reads() const { return reads_.size(); }
  const Value& read(std::size_t index = 0) const;
  // As `read`, of the shape given.
  const Value& read(std::size_t index, i64 c, i64 h, i64 w) const;
  // The value to write, of the shape given.
  const Value& write(i64 c, i64 h, i64 w) const;
  // Instead of `write`: adds outputs of the program; returns the number of the first.
  i64 end(i64 outputs);

  // The layer of a window op.
  std::unique_ptr<PackedLayer> pack(Op op, const Geometry& geometry, const void* weight,
                                    const Requantisation& requantisation) const;
  // Appends an op; returns the value that it writes.
  const Value* append(NativeOp op);
  const Value* rows(std::vector<const Value*> reads, const Value* y,
                    std::function<void(const Rows& rows)> work) {
    return append(rows_op(std::move(reads), y, std::move(work)));
  }
  // A value between the ops of the node, in memory of its own or in the memory of `home`.
  const Value* scratch(i64 c, i64 h, i64 w, const Value* home = nullptr);
  // Widens the border of the first value read to the padding of a layer, and counts its work.
  void reserve(const Geometry& geometry);
  // Name of the kernel after the kind of the node.
  void set_name(const std::string& name) { name_ = op_ + ": " + name; }

  // What the program takes over.
  std::vector<NativeOp>& ops() { return ops_; }
  const std::string& name() const { return name_; }
  i64 outputs() const { return outputs_; }
  double work() const { return work_; }

 private:
  const std::string& op_;
  const Kernels& kernels_;
  WeightPool* const pool_;
  const std::vector<Value*> reads_;
  const Value* const writes_;
  const i64 first_output_;
  std::deque<Value>& scratch_;
  std::vector<NativeOp> ops_;
  std::string name_ = op_;
  i64 outputs_ = 0;
  double work_ = 0;
};

using NodeKernel = void (*)(Builder& node, const Fields& fields);

// Of each kind of node its kernel.
std::map<std::string, NodeKernel>& node_kernels();

// Defines and registers the kernel of a kind of node: its body follows.
#define MULFREE_NODE(op)                                                           \
  static void kernel_of_##op(Builder& node, const Fields& fields);                 \
  static const auto registered_##op = node_kernels().emplace(#op, kernel_of_##op); \
  static void kernel_of_##op(Builder& node, const Fields& fields)

}  // namespace mulfree::nodes
