#include "base/child_process.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/system_error.h"
#include "metal_marlin/error.h"

namespace metal_marlin {

pid_t start_process(std::vector<std::string> arguments, const std::function<void()>& prepare) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    if (prepare) prepare();
    execvp(argv[0], argv.data());
    _exit(kCannotRun);
  }
  if (child < 0)
    throw Error(code_of_errno(errno), fmt::format("cannot start {}: {}", arguments[0], std::strerror(errno)));
  return child;
}

int wait_for_process(pid_t child, const std::string& name) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR)
      throw Error(code_of_errno(errno), fmt::format("cannot wait for {}: {}", name, std::strerror(errno)));
  }
  if (!WIFEXITED(status))
    throw Error(ErrorCode::kInternal, fmt::format("{}: ended by signal {}", name, WTERMSIG(status)));
  return WEXITSTATUS(status);
}

}  // namespace metal_marlin
