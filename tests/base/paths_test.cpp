#include "base/paths.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <string>

#include "test_data.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

TEST(Paths, LieInAFolderOrNot) {
  const TemporaryFolder work;
  const fs::path folder = fs::canonical(work.path()) / "model";
  fs::create_directories(folder / "deep");
  EXPECT_TRUE(lies_in(folder, folder));
  EXPECT_TRUE(lies_in(folder / "deep" / "file", folder));
  EXPECT_TRUE(lies_in(folder / "not there", folder));
  EXPECT_FALSE(lies_in(folder.parent_path(), folder));
  EXPECT_FALSE(lies_in(folder.parent_path() / "model2", folder));  // begins with the same letters
  EXPECT_FALSE(lies_in("", folder));
}

TEST(Paths, OfOneFileAreTheSame) {
  const TemporaryFolder work;
  std::ofstream(work.path() / "a") << "text";
  std::ofstream(work.path() / "b") << "text";
  fs::create_hard_link(work.path() / "a", work.path() / "link");
  EXPECT_TRUE(is_same_file(work.path() / "a", work.path() / "link"));
  EXPECT_TRUE(is_same_file(work.path() / "nothing", work.path() / "nothing"));
  EXPECT_FALSE(is_same_file(work.path() / "a", work.path() / "b"));
  EXPECT_FALSE(is_same_file(work.path() / "nothing", work.path() / "no more"));
}

// Sets variables of the environment, or takes them away, and puts back what was.
class Environment {
 public:
  void set(const char* name, const char* value) {
    if (!before_.contains(name)) {
      const char* const was = std::getenv(name);
      before_[name] = was == nullptr ? std::nullopt : std::optional<std::string>(was);
    }
    if (value == nullptr) {
      unsetenv(name);
    } else {
      setenv(name, value, 1);
    }
  }
  ~Environment() {
    for (const auto& [name, value] : before_) set(name.c_str(), value ? value->c_str() : nullptr);
  }

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

TEST(Paths, TheCacheIsWhereTheEnvironmentSays) {
  Environment environment;
  environment.set("METAL_MARLIN_CACHE", "/own");
  environment.set("XDG_CACHE_HOME", "/caches");
  environment.set("HOME", "/home/me");
  EXPECT_EQ(cache_folder(), "/own");
  environment.set("METAL_MARLIN_CACHE", "");
  EXPECT_EQ(cache_folder(), "/caches/metal-marlin");
  environment.set("XDG_CACHE_HOME", nullptr);
  EXPECT_EQ(cache_folder(), "/home/me/.cache/metal-marlin");
  environment.set("HOME", nullptr);
  EXPECT_EQ(cache_folder(), "");
}

}  // namespace
}  // namespace metal_marlin
