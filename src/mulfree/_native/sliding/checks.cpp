#include "checks.h"

#include <stdexcept>

namespace mulfree::sliding {

void fail(const std::string& function, const std::string& argument, const std::string& requirement,
          const std::string& got) {
  throw std::invalid_argument(function + ": `" + argument + "` must " + requirement + ", got " +
                              got);
}

std::string text(std::pair<std::int64_t, std::int64_t> pair) {
  return "(" + std::to_string(pair.first) + ", " + std::to_string(pair.second) + ")";
}

std::string text(const std::vector<std::int64_t>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

std::int64_t window_count(std::int64_t extent, std::int64_t kernel, std::int64_t stride,
                          std::int64_t padding, std::int64_t dilation) {
  const std::int64_t room = extent + 2 * padding - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

}  // namespace mulfree::sliding
