// Errors of arguments. For baseline translation units, as everything of external linkage.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace mulfree::sliding {

// Throws std::invalid_argument: "{function}: `{argument}` must {requirement}, got {got}".
[[noreturn]] void fail(const std::string& function, const std::string& argument,
                       const std::string& requirement, const std::string& got);

std::string text(std::pair<std::int64_t, std::int64_t> pair);
std::string text(const std::vector<std::int64_t>& shape);

// Number of windows along one axis.
std::int64_t window_count(std::int64_t extent, std::int64_t kernel, std::int64_t stride,
                          std::int64_t padding, std::int64_t dilation = 1);

}  // namespace mulfree::sliding
