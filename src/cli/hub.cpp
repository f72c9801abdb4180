#include "cli/hub.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>
#include <utility>

#include "io/file_write.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

constexpr int kAttempts = 6;  // without a byte between them
constexpr std::size_t kLongestAnswer = std::size_t{64} << 20;

class Checksum {
 public:
  explicit Checksum(const HubFile& file) : file_(file), context_(EVP_MD_CTX_new()) { restart(); }
  ~Checksum() { EVP_MD_CTX_free(context_); }
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void restart() {
    EVP_DigestInit_ex(context_, file_.sha256.empty() ? EVP_sha1() : EVP_sha256(), nullptr);
    if (file_.sha256.empty()) {
      const std::string head = fmt::format("blob {}", file_.size);
      EVP_DigestUpdate(context_, head.c_str(), head.size() + 1);
    }
  }
  void add(std::span<const std::byte> bytes) { EVP_DigestUpdate(context_, bytes.data(), bytes.size()); }
  [[nodiscard]] std::string text() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned size = 0;
    EVP_DigestFinal_ex(context_, digest.data(), &size);
    std::string out;
    for (unsigned i = 0; i < size; ++i) out += fmt::format("{:02x}", digest.at(i));
    return out;
  }

 private:
  const HubFile& file_;
  EVP_MD_CTX* context_;
};

// A file that is being written, and the checksum of what is there.
class PartialFile {
 public:
  PartialFile(std::filesystem::path path, const HubFile& file) : path_(std::move(path)), file_(file), sum_(file) {
    descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (descriptor_ < 0) fail_file(path_, "open");
    if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      close(descriptor_);
      throw Error(ErrorCode::kIo, fmt::format("{}: another process is fetching it", path_.string()));
    }
    const MappedFile there(path_);
    done_ = static_cast<std::int64_t>(there.bytes().size());
    if (done_ <= size()) sum_.add(there.bytes());
    if (done_ > size()) restart();
  }
  ~PartialFile() { close(descriptor_); }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void restart() {
    if (ftruncate(descriptor_, 0) != 0) fail_file(path_, "truncate");
    done_ = 0;
    sum_.restart();
  }
  void append(const char* bytes, std::size_t size) {
    const auto added = std::as_bytes(std::span(bytes, size));
    write_fully(descriptor_, added, done_, path_);
    sum_.add(added);
    done_ += static_cast<std::int64_t>(size);
  }
  [[nodiscard]] std::int64_t done() const { return done_; }
  [[nodiscard]] std::int64_t size() const { return file_.size; }

  // \throws Error (kCorruptFile) when it is not what the hub says; it is removed then.
  void finish(const std::filesystem::path& name) {
    const std::string found = sum_.text();
    if (!file_.checksum().empty() && found != file_.checksum()) {
      std::filesystem::remove(path_);
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: checksum {}, the hub says {}; what was fetched is removed",
                                                       name.string(), found, file_.checksum()));
    }
    if (fsync(descriptor_) != 0) fail_file(path_, "flush");
    std::filesystem::rename(path_, name);
  }

 private:
  std::filesystem::path path_;
  const HubFile& file_;
  std::int64_t done_ = 0;
  int descriptor_ = -1;
  Checksum sum_;
};

bool may_pass(CURLcode code, long status) {
  if (code == CURLE_OK) return status == 408 || status == 429 || status >= 500;
  constexpr std::array kPassing{CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_CONNECT, CURLE_PARTIAL_FILE,
                                CURLE_OPERATION_TIMEDOUT,   CURLE_GOT_NOTHING,     CURLE_SEND_ERROR,
                                CURLE_RECV_ERROR,           CURLE_HTTP2,           CURLE_HTTP2_STREAM};
  return std::find(kPassing.begin(), kPassing.end(), code) != kPassing.end();
}

// Names come from outside and become paths.
bool is_safe(const std::string& name) {
  const std::filesystem::path path(name);
  return !name.empty() && !path.is_absolute() && name.back() != '/' &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 32 || c == '\\'; }) &&
         std::none_of(path.begin(), path.end(), [](const auto& part) { return part == ".." || part == "."; });
}

HubFile parse_file(const JsonObject& json) {
  HubFile file;
  file.name = json.string("rfilename");
  if (!is_safe(file.name)) json.wrong("rfilename", "a path within the repository");
  file.size = json.bounded("size", 0, std::int64_t{1} << 50);
  file.blob = json.string_or("blobId", "");
  if (json.has("lfs")) file.sha256 = json.object("lfs").string("sha256");
  // It becomes part of a name, too.
  if (file.checksum().find_first_not_of("0123456789abcdef") != std::string::npos)
    json.wrong(file.sha256.empty() ? "blobId" : "lfs", "a checksum of hexadecimal digits");
  return file;
}

}  // namespace

// A handle whose connections are used again.
struct Hub::Connection {
  explicit Connection(const std::string& token) : curl(curl_easy_init()) {
    if (curl == nullptr) throw Error(ErrorCode::kInternal, "libcurl does not start");
    set(CURLOPT_FOLLOWLOCATION, 1L);
    set(CURLOPT_MAXREDIRS, 10L);
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    set(CURLOPT_USERAGENT, "metal-marlin");
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_CONNECTTIMEOUT, 30L);
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, 60L);
    set(CURLOPT_ERRORBUFFER, message.data());
    if (token.empty()) return;
    // libcurl keeps it from other hosts that it is sent on to.
    set(CURLOPT_HTTPAUTH, static_cast<long>(CURLAUTH_BEARER));
    set(CURLOPT_XOAUTH2_BEARER, token.c_str());
  }
  ~Connection() { curl_easy_cleanup(curl); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  template <typename T>
  void set(CURLoption option, T value) {
    if (curl_easy_setopt(curl, option, value) != CURLE_OK)
      throw Error(ErrorCode::kInternal, fmt::format("libcurl refuses option {}", static_cast<int>(option)));
  }
  // Asks for what lies from a byte on; a server may answer with all.
  void from(std::int64_t byte) {
    if (byte == 0) {
      set(CURLOPT_RANGE, static_cast<const char*>(nullptr));
    } else {
      set(CURLOPT_RANGE, fmt::format("{}-", byte).c_str());
    }
  }
  [[nodiscard]] long status() const {
    long out = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &out);
    return out;
  }
  [[nodiscard]] std::string escape(const std::string& part) const {
    char* const text = curl_easy_escape(curl, part.c_str(), static_cast<int>(part.size()));
    std::string out = text;
    curl_free(text);
    return out;
  }
  // Each part between slashes.
  [[nodiscard]] std::string escape_path(const std::string& path) const {
    std::string out;
    for (const auto& part : std::filesystem::path(path))
      out += fmt::format("{}{}", out.empty() ? "" : "/", escape(part.string()));
    return out;
  }

  // Asks until the answer is no failure that may pass; bytes go to `receive`. `advanced` tells whether any
  // came in this attempt. \throws Error (kIo), or what receive met with.
  template <typename Receive, typename Prepare>
  long ask(const std::string& url, const Prepare& prepare, Receive& receive) {
    for (int attempt = 1;; ++attempt) {
      prepare();
      message.front() = '\0';
      set(CURLOPT_URL, url.c_str());
      set(CURLOPT_WRITEDATA, &receive);
      set(
          CURLOPT_WRITEFUNCTION, +[](char* bytes, std::size_t, std::size_t count, void* to) -> std::size_t {
            return (*static_cast<Receive*>(to))(bytes, count) ? count : 0;
          });
      set(CURLOPT_NOPROGRESS, 0L);
      set(CURLOPT_XFERINFODATA, &receive);
      set(
          CURLOPT_XFERINFOFUNCTION, +[](void* to, curl_off_t, curl_off_t, curl_off_t, curl_off_t) -> int {
            return static_cast<Receive*>(to)->stopped() ? 1 : 0;
          });
      const CURLcode code = curl_easy_perform(curl);
      receive.rethrow();
      if (!may_pass(code, status())) {
        if (code == CURLE_OK) return status();
        fail(url, code);
      }
      if (receive.advanced()) attempt = 1;
      if (attempt == kAttempts) {
        if (code == CURLE_OK) return status();
        fail(url, code);
      }
      // A tenth of a second, then twice as long each time.
      for (int tenth = 0; tenth < 1 << (attempt - 1) && !receive.stopped(); ++tenth)
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      receive.rethrow();
    }
  }
  [[noreturn]] void fail(const std::string& url, CURLcode code) const {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: {}", url, message.front() != '\0' ? message.data() : curl_easy_strerror(code)));
  }

  CURL* curl;
  std::array<char, CURL_ERROR_SIZE> message{};
};

namespace {

// A short answer.
struct TextReceiver {
  std::string text;
  bool operator()(const char* bytes, std::size_t count) {
    text.append(bytes, count);
    return text.size() <= kLongestAnswer;
  }
  [[nodiscard]] static bool stopped() { return false; }
  [[nodiscard]] static bool advanced() { return false; }
  static void rethrow() {}
};

// Bytes of a file from where it ends.
struct FileReceiver {
  PartialFile& file;
  const Hub::Progress& progress;
  std::function<long()> status;
  std::int64_t before = 0;  // as the last attempt began
  bool began = false;
  std::exception_ptr failure;

  bool operator()(const char* bytes, std::size_t count) {
    try {
      const long code = status();
      if (code != 200 && code != 206) return true;  // the text of an error
      // Not every server gives the rest of a file.
      if (!std::exchange(began, true) && code == 200 && file.done() > 0) file.restart();
      if (file.done() + static_cast<std::int64_t>(count) > file.size()) {
        throw Error(ErrorCode::kCorruptFile,
                    fmt::format("more than the {} bytes arrive that the hub tells of", file.size()));
      }
      file.append(bytes, count);
      return !stopped();
    } catch (...) {
      failure = std::current_exception();
      return false;
    }
  }
  [[nodiscard]] bool stopped() {
    if (failure == nullptr && !progress(file.done()))
      failure = std::make_exception_ptr(Error(ErrorCode::kCancelled, "cancelled"));
    return failure != nullptr;
  }
  [[nodiscard]] bool advanced() const { return file.done() > before; }
  void rethrow() const {
    if (failure != nullptr) std::rethrow_exception(failure);
  }
};

}  // namespace

Hub::Hub(const std::string& endpoint, const std::string& token)
    : endpoint_(endpoint), connection_(std::make_unique<Connection>(token)) {
  while (endpoint_.ends_with('/')) endpoint_.pop_back();
}
Hub::~Hub() = default;

HubRevision Hub::revision(const std::string& repository, const std::string& revision) const {
  const std::string url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", endpoint_,
                                      connection_->escape_path(repository), connection_->escape(revision));
  TextReceiver answer;
  const long status = connection_->ask(
      url,
      [&] {
        answer.text.clear();
        connection_->from(0);
      },
      answer);
  if (status == 401 || status == 403) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: {} is not there, or not to be read with this token (HF_TOKEN); the hub says {}",
                            endpoint_, repository, status));
  }
  if (status == 404) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: no model {}, or no revision {} of it", endpoint_, repository, revision));
  }
  if (status != 200) throw Error(ErrorCode::kIo, fmt::format("{}: the hub says {}", url, status));
  const Json json = parse_json(answer.text, url);
  const JsonObject object(json, url);
  HubRevision out;
  out.commit = object.string("sha");
  const Json& files = object.at("siblings");
  if (!files.is_array()) object.wrong("siblings", "a list of files");
  for (std::size_t i = 0; i < files.size(); ++i)
    out.files.push_back(parse_file(JsonObject(files[i], fmt::format("{}: siblings[{}]", url, i))));
  return out;
}

void Hub::fetch(const std::string& repository, const std::string& commit, const HubFile& file,
                const std::filesystem::path& path, const Progress& progress) const {
  const std::string url = fmt::format("{}/{}/resolve/{}/{}", endpoint_, connection_->escape_path(repository),
                                      connection_->escape(commit), connection_->escape_path(file.name));
  std::filesystem::create_directories(path.parent_path());
  PartialFile partial(fmt::format("{}.{}.partial", path.string(), file.checksum().substr(0, 12)), file);
  FileReceiver receiver{partial, progress, [&] { return connection_->status(); }, 0, false, nullptr};
  while (partial.done() < file.size) {
    const std::int64_t begin = partial.done();
    long status = 0;
    try {
      status = connection_->ask(
          url,
          [&] {
            receiver.began = false;
            receiver.before = partial.done();
            connection_->from(partial.done());
          },
          receiver);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kCancelled || error.code() == ErrorCode::kIo) throw;
      throw Error(error.code(), fmt::format("{}: {}", url, error.what()));
    }
    if (status != 200 && status != 206) throw Error(ErrorCode::kIo, fmt::format("{}: the hub says {}", url, status));
    if (partial.done() == begin)
      throw Error(ErrorCode::kIo, fmt::format("{}: ends after {} of {} bytes", url, begin, file.size));
  }
  partial.finish(path);
}

bool Hub::is_complete(const HubFile& file, const std::filesystem::path& path) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(path, none) ||
      static_cast<std::int64_t>(std::filesystem::file_size(path)) != file.size) {
    return false;
  }
  if (file.checksum().empty()) return false;
  Checksum sum(file);
  sum.add(MappedFile(path).bytes());
  return sum.text() == file.checksum();
}

}  // namespace metal_marlin::cli
