#include "cli/streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

// A file that is mapped became shorter, or its disk fails: nothing can be done but say so.
void on_bus_error(int) {
  constexpr char kText[] = "error: a file that is being read became shorter, or cannot be read\n";
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  _exit(static_cast<int>(ErrorCode::kIo));
}

}  // namespace

void prepare_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest number that is free, open the wrong way round: reads and writes still fail.
    if (open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY) != descriptor)
      _exit(static_cast<int>(ErrorCode::kIo));
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGBUS, on_bus_error);
}

void flush_output() {
  const bool failed = std::ferror(stdout) != 0;
  if (std::fflush(stdout) == 0 && !failed) return;
  throw Error(ErrorCode::kIo,
              fmt::format("standard output: cannot write{}{}", failed ? "" : ": ", failed ? "" : std::strerror(errno)));
}

void write_error(std::string_view text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace metal_marlin::cli
