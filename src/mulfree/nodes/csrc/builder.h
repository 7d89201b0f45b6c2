// One node of a program while its kernel appends ops, and the registry of kernels.
#pragma once

#include <deque>

#include "fields.h"
#include "native_op.h"

namespace mulfree::nodes {

class Builder {
 public:
  // `writes` is null for a node that ends; its outputs start at `first_output`.
  Builder(const std::string& op, const Kernels& kernels, std::vector<Value*> reads,
          const Value* writes, i64 first_output, std::deque<Value>& scratch)
      : kernels(kernels),
        op_(op),
        reads_(std::move(reads)),
        writes_(writes),
        first_output_(first_output),
        scratch_(scratch) {}

  const Kernels& kernels;

  std::size_t reads() const { return reads_.size(); }
  const Value& read(std::size_t index = 0) const;
  // As `read`, of the shape given.
  const Value& read(std::size_t index, i64 c, i64 h, i64 w) const;
  // The value to write, of the shape given.
  const Value& write(i64 c, i64 h, i64 w) const;
  // Instead of `write`: adds outputs to those of the program; returns the number of the first.
  i64 end(i64 outputs);

  // Appends an op; returns the value that it writes.
  const Value* append(NativeOpPointer op);
  // A value between the ops of the node, in memory of its own or in the memory of `home`.
  const Value* scratch(i64 c, i64 h, i64 w, const Value* home = nullptr);
  // Widens the border of the first value read to the padding of a layer, and counts its work.
  void layer(const Geometry& geometry);
  // Name of the kernel; by default the last op describes itself.
  void set_name(const std::string& name) { name_ = name; }

  // What the program takes over.
  std::vector<NativeOpPointer>& ops() { return ops_; }
  std::string name() const { return name_.empty() ? ops_.back()->describe() : name_; }
  i64 outputs() const { return outputs_; }
  double work() const { return work_; }

 private:
  const std::string& op_;
  const std::vector<Value*> reads_;
  const Value* const writes_;
  const i64 first_output_;
  std::deque<Value>& scratch_;
  std::vector<NativeOpPointer> ops_;
  std::string name_;
  i64 outputs_ = 0;
  double work_ = 0;
};

// The kernel of a kind of node: a static object in nodes/<op>/kernel.cpp registers it.
struct NodeKernel {
  using Append = void (*)(Builder& node, const Fields& fields);
  NodeKernel(const char* op, Append append) { all()[op] = append; }
  static std::map<std::string, Append>& all();
};

}  // namespace mulfree::nodes
