#include "server/guard.h"

#include <fmt/format.h>
#include <sys/stat.h>
#if METAL_MARLIN_TLS
#include <openssl/evp.h>
#endif

#include <algorithm>

#include "io/text_file.h"
#include "metal_marlin/error.h"
#include "server/api_error.h"

namespace metal_marlin::server {
namespace {

#if METAL_MARLIN_TLS
constexpr std::size_t kKeyNameBytes = 16;  // of the hash: no two keys have the same
#endif

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

std::vector<std::string> parts_of(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    const std::string_view part = trimmed(text.substr(0, end));
    if (!part.empty() && part.front() != '#') parts.emplace_back(part);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

// Looks at all of `shown`, whatever the key is.
bool same_key(std::string_view key, std::string_view shown) {
  unsigned differ = key.size() == shown.size() ? 0 : 1;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    const volatile char mine = key.empty() ? '\0' : key[i % key.size()];
    differ |= static_cast<unsigned char>(mine ^ shown[i]);
  }
  return differ == 0;
}

}  // namespace

ApiKeys::ApiKeys(std::string_view list, std::filesystem::path file, std::function<void(const std::string&)> notice)
    : listed_(parts_of(list, ',')), file_(std::move(file)), notice_(std::move(notice)) {
  if (file_.empty()) return;
  stamp_ = stamp();
  filed_ = parts_of(read_text_file(file_), '\n');
  if (filed_.empty()) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("--api-key-file {}: has no key", file_.string()));
  }
}

// The time of the change of the file itself too: one that takes another's place may be as large, and tools that copy
// keep the time of its text.
ApiKeys::Stamp ApiKeys::stamp() const {
  struct stat status {};
  if (stat(file_.c_str(), &status) != 0) return {};
#ifdef __APPLE__
  const timespec& changed = status.st_ctimespec;
#else
  const timespec& changed = status.st_ctim;
#endif
  return {static_cast<std::int64_t>(status.st_dev), static_cast<std::int64_t>(status.st_ino),
          static_cast<std::int64_t>(changed.tv_sec), static_cast<std::int64_t>(changed.tv_nsec),
          static_cast<std::int64_t>(status.st_size)};
}

void ApiKeys::refresh() {
  if (file_.empty()) return;
  const Stamp now = stamp();
  if (now == stamp_) return;
  stamp_ = now;
  std::vector<std::string> keys;
  try {
    keys = parts_of(read_text_file(file_), '\n');
  } catch (const Error& error) {
    notice_(error.what());
  }
  if (keys.empty()) {
    notice_(fmt::format("{}: no key can be read; those of before stay", file_.string()));
  } else {
    filed_ = std::move(keys);
  }
}

int ApiKeys::find(std::string_view key) {
  const std::scoped_lock lock(mutex_);
  refresh();
  int found = -1;
  int place = 0;
  for (const std::vector<std::string>* const keys : {&listed_, &filed_}) {
    for (const std::string& known : *keys) {
      if (same_key(known, key)) found = place;
      ++place;
    }
  }
  return found;
}

#if METAL_MARLIN_TLS
bool has_lasting_key_names() {
  return true;
}

std::string name_of_key(std::string_view key, int) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> hash{};
  if (EVP_Digest(key.data(), key.size(), hash.data(), nullptr, EVP_sha256(), nullptr) != 1)
    throw Error(ErrorCode::kInternal, "libcrypto cannot make a SHA-256");
  std::string name = "key-";
  for (std::size_t i = 0; i < kKeyNameBytes; ++i) name += fmt::format("{:02x}", hash[i]);
  return name;
}
#else
bool has_lasting_key_names() {
  return false;
}

std::string name_of_key(std::string_view, int place) {
  return fmt::format("key-{}", place);
}
#endif

std::string host_name(std::string_view host) {
  const std::size_t bracket = host.starts_with('[') ? std::min(host.find(']'), host.size()) : 0;
  const std::size_t end = host.find(':', bracket);
  std::string name(host.substr(0, end));
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return name;
}

bool is_loopback_host(std::string_view host) {
  const std::string name = host_name(host);
  if (name == "localhost" || name == "[::1]") return true;
  const bool numeric = std::all_of(name.begin(), name.end(), [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
  return numeric && name.starts_with("127.") && std::count(name.begin(), name.end(), '.') == 3;
}

Guard::Guard(GuardOptions options, std::function<void(const std::string&)> notice)
    : options_(std::move(options)), keys_(options_.api_keys, options_.api_key_file, std::move(notice)) {}

void Guard::check_host(const HttpRequest& request) const {
  if (!local_) return;
  const std::string* const host = request.header("host");
  if (host == nullptr || is_loopback_host(*host)) return;
  const std::string name = host_name(*host);
  if (std::ranges::any_of(options_.hosts, [&](const std::string& known) { return host_name(known) == name; })) return;
  throw ApiError(403, fmt::format("Host {} is not this machine; --allowed-host names others", *host), {}, "bad_host");
}

std::string Guard::check_key(const HttpRequest& request, bool open) {
  if (open || !keys_.needed()) return request.peer;
  constexpr std::string_view scheme = "bearer ";
  const std::string* const plain = request.header("x-api-key");
  const int shown_plainly = plain == nullptr ? -1 : keys_.find(trimmed(*plain));
  const std::string* const header = request.header("authorization");
  std::string_view shown = header == nullptr ? std::string_view() : std::string_view(*header);
  const bool bearer = shown.size() > scheme.size() && std::equal(scheme.begin(), scheme.end(), shown.begin(),
                                                                 [](char a, char b) { return a == (b | 0x20); });
  const int shown_as_bearer = bearer ? keys_.find(trimmed(shown.substr(scheme.size()))) : -1;
  if (shown_plainly < 0 && shown_as_bearer < 0) {
    throw ApiError(401, "the API key is missing or wrong, expected Authorization: Bearer KEY or x-api-key: KEY", {},
                   "invalid_api_key");
  }
  if (shown_as_bearer >= 0) return name_of_key(trimmed(shown.substr(scheme.size())), shown_as_bearer);
  return name_of_key(trimmed(*plain), shown_plainly);
}

HttpHeaders Guard::cors_headers(const HttpRequest& request) const {
  const std::string* const origin = request.header("origin");
  if (origin == nullptr || options_.cors_origins.empty()) return {};
  for (const std::string& allowed : options_.cors_origins) {
    if (allowed != "*" && allowed != *origin) continue;
    HttpHeaders headers = {{"Access-Control-Allow-Origin", allowed}, {"Vary", "Origin"}};
    if (is_preflight(request)) {
      headers.emplace_back("Access-Control-Allow-Methods", "GET, POST");
      // Whichever the page's client sends, and clients send some that tell of themselves.
      const std::string* const asked = request.header("access-control-request-headers");
      if (asked != nullptr) headers.emplace_back("Access-Control-Allow-Headers", *asked);
      headers.emplace_back("Access-Control-Max-Age", "600");
    }
    return headers;
  }
  return {};
}

bool Guard::is_preflight(const HttpRequest& request) const {
  return !options_.cors_origins.empty() && request.method == "OPTIONS" &&
         request.header("access-control-request-method") != nullptr;
}

}  // namespace metal_marlin::server
