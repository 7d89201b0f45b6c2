// Whether this process is a fork of the one that loaded the library: the threads of OpenMP and of
// teams stay behind in the parent, and a child that waits for them waits for ever.
#pragma once

namespace mulfree::sliding {

// Forks between the process that loaded the library and this one.
int forks();

}  // namespace mulfree::sliding
