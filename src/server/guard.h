// Who may ask: API keys, the Host that a browser must have meant, pages of which origins.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "server/http/http.h"

namespace metal_marlin::server {

// Keys that clients show; none: nobody needs one.
class ApiKeys {
 public:
  // \param list of keys, parted by commas; \param file with one a line (# begins a comment), read again when it
  // changes. \param notice is told when it cannot be read again: then the keys stay. \throws Error naming the file,
  // also where it has no key.
  ApiKeys(std::string_view list, std::filesystem::path file, std::function<void(const std::string&)> notice);

  [[nodiscard]] bool needed() const { return !listed_.empty() || !file_.empty(); }
  // The place of a key among all, or -1. Takes as long for a wrong one as for a right one.
  int find(std::string_view key);

 private:
  using Stamp = std::array<std::int64_t, 5>;
  [[nodiscard]] Stamp stamp() const;  // of the file as it is now
  void refresh();

  std::vector<std::string> listed_;
  std::filesystem::path file_;
  std::function<void(const std::string&)> notice_;
  std::mutex mutex_;  // of what follows
  std::vector<std::string> filed_;
  Stamp stamp_{};
};

// The name in a Host header: without its port, in small letters.
std::string host_name(std::string_view host);
// Whether a Host header names this machine's loopback: localhost, 127.0.0.0/8 or [::1], with or without a port. A page
// of another site that had its name resolved to 127.0.0.1 sends that name.
bool is_loopback_host(std::string_view host);

// Whether name_of_key() tells keys apart for good: what is kept for each of them needs that.
bool has_lasting_key_names();
// What a key is called where it must not be shown: by a hash, which it has in every run. Without OpenSSL by its place
// among the keys.
std::string name_of_key(std::string_view key, int place);

struct GuardOptions {
  std::string api_keys;
  std::filesystem::path api_key_file;
  std::vector<std::string> cors_origins;  // "*": all
  std::vector<std::string> hosts;         // that are meant too, where Host is looked at
};

class Guard {
 public:
  Guard(GuardOptions options, std::function<void(const std::string&)> notice);
  // Requests must name this machine's loopback as their host, or one of GuardOptions::hosts.
  void only_local_hosts() { local_ = true; }

  // \throws ApiError (403).
  void check_host(const HttpRequest& request) const;
  // Whether requests are those of keys.
  [[nodiscard]] bool needs_keys() const { return keys_.needed(); }
  // Whose request it is: of the key of Authorization or x-api-key, or the address where none are needed.
  // \throws ApiError (401).
  std::string check_key(const HttpRequest& request, bool open);
  // Headers for a page of an allowed origin.
  [[nodiscard]] HttpHeaders cors_headers(const HttpRequest& request) const;
  [[nodiscard]] bool is_preflight(const HttpRequest& request) const;

 private:
  GuardOptions options_;
  ApiKeys keys_;
  bool local_ = false;
};

}  // namespace metal_marlin::server
