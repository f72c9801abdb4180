#include "server/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <random>

#include "server/api_error.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

void check_slot_folder(const std::filesystem::path& folder, bool needs_keys) {
  if (folder.empty()) return;
  if (!std::filesystem::is_directory(folder))
    throw Error(ErrorCode::kNotFound, fmt::format("--slot-save-path {}: no such folder", folder.string()));
  if (needs_keys && !has_lasting_key_names()) {
    throw Error(ErrorCode::kUnsupported,
                "--slot-save-path: API keys have files of their own, which this build cannot tell apart: it was made "
                "without OpenSSL");
  }
}

// What a client calls its request, where it is fit for a log, or a name of ours.
std::string request_id(const HttpRequest& request) {
  const std::string* const given = request.header("x-request-id");
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_';
  };
  if (given != nullptr && !given->empty() && given->size() <= 64 && std::all_of(given->begin(), given->end(), plain)) {
    return *given;
  }
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}", random(), random(), random());
}

// Without its parameters, in small letters.
std::string media_type(std::string_view type) {
  type = type.substr(0, type.find(';'));
  std::string name(type.substr(0, type.find_last_not_of(" \t") + 1));
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return name;
}

void check_content_type(const HttpRequest& request) {
  if (request.method != "POST") return;
  const std::string* const type = request.header("content-type");
  // Pages of other sites may send texts and forms without being asked, but not this.
  if (type != nullptr && media_type(*type) == "application/json") return;
  throw ApiError(415, "the body must have Content-Type: application/json", {}, "unsupported_media_type");
}

}  // namespace

Server::Server(const ServerOptions& options)
    : log_(options.log_file, options.log_prompts),
      guard_(options.guard,
             [this](const std::string& text) {
               log_.write({{"notice", text}});
             }),
      service_(log_) {
  http_ = std::make_unique<HttpServer>(
      options.http, [this](const std::shared_ptr<Exchange>& exchange) { handle(exchange); },
      [this](const HttpRequest& head) { admit(head); },
      [](int status, const std::string& path, const std::string& message) {
        return error_body(ApiError(status, message), path, {});
      },
      [this](const HttpRequest& request, const std::string& message, const HttpOutcome& outcome) {
        LogEntry entry(request, "");
        entry.set("error", message);
        log_.write(entry.line(outcome));
        service_.metrics.answered(outcome.status);
      });
  service_.take_turn = [this](const Call& call, AnswerRoute route) {
    Call again = call;
    again.has_turn = true;
    http_->take_turn([this, again, route] { attempt(again, [this, again, route] { route(service_, again); }); });
  };
  service_.keep_billing_line = options.keep_billing_line;
  service_.slot_folder = options.slot_folder;
  check_slot_folder(options.slot_folder, guard_.needs_keys());
  if (http_->on_loopback()) guard_.only_local_hosts();
}

void Server::start(std::vector<ModelEntry> models, const ModelLimits& limits) {
  service_.models.start(std::move(models), limits);
  http_->start();
}

void Server::start(std::vector<ServedModel> models) {
  service_.models.start(std::move(models));
  http_->start();
}

Server::~Server() = default;

void Server::handle(const std::shared_ptr<Exchange>& exchange) {
  const std::string id = request_id(exchange->request());
  const Call call = {exchange, std::make_shared<LogEntry>(exchange->request(), id), id, {}};
  exchange->headers = guard_.cors_headers(exchange->request());
  exchange->headers.emplace_back("X-Request-Id", id);
  if (is_message_path(exchange->request().path)) exchange->headers.emplace_back("request-id", id);
  exchange->when_over([this, log = call.log](const HttpOutcome& outcome) {
    log_.write(log->line(outcome));
    service_.metrics.answered(outcome.status);
  });
  attempt(call, [this, call] { answer(call); });
}

void Server::fail(const Call& call, const ApiError& error) {
  const std::shared_ptr<Exchange>& exchange = call.exchange;
  call.log->set("error", error.what());
  if (error.status == 401) exchange->headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.status == 405) exchange->headers.emplace_back("Allow", allowed_methods(exchange->request().path));
  if (error.status == 429) exchange->headers.emplace_back("Retry-After", "1");
  if (error.code == kModelLoading) exchange->headers.emplace_back("Retry-After", "10");
  exchange->respond(error.status, "application/json", call.error(error));
}

void Server::attempt(const Call& call, const std::function<void()>& what) {
  if (call.exchange->is_gone()) return;  // while it waited for its turn
  try {
    what();
  } catch (const ModelNotLoaded& missing) {
    wait_for_model(call, missing.entry, what);
  } catch (const ApiError& error) {
    fail(call, error);
  } catch (const Error& error) {
    fail(call, to_api_error(error));
  } catch (const std::exception& error) {
    fail(call, ApiError(500, fmt::format("internal: {}", error.what())));
  }
}

void Server::wait_for_model(const Call& call, std::size_t entry, const std::function<void()>& what) {
  const auto resume = [this, call, what](const std::optional<ApiError>& error) {
    const auto task = [this, call, what, error] { error ? fail(call, *error) : attempt(call, what); };
    call.has_turn ? http_->take_turn(task) : http_->post(call.request(), task);
  };
  const std::uint64_t waiter = service_.models.wait_for(entry, call.models, resume);
  call.exchange->when_gone([this, waiter] { service_.models.forget(waiter); });
}

std::string Server::admit(const HttpRequest& request) {
  guard_.check_host(request);
  if (guard_.is_preflight(request)) return {};
  const Route& route = find_route(request.method, request.path);
  std::string owner = guard_.check_key(request, route.open);
  check_content_type(request);
  return owner;
}

void Server::answer(const Call& call) {
  const HttpRequest& request = call.request();
  if (request.refusal) std::rethrow_exception(request.refusal);
  Call owned = call;
  owned.fair_key = admit(request);
  if (guard_.needs_keys()) owned.owner = owned.fair_key;
  if (guard_.is_preflight(request)) return call.exchange->respond(204, "text/plain", "");
  find_route(request.method, request.path).answer(service_, owned);
}

bool Server::drain(std::chrono::milliseconds most) {
  const auto end = std::chrono::steady_clock::now() + most;
  const auto left = [&] {
    const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    return std::max(time, std::chrono::milliseconds(0));
  };
  service_.draining = true;
  http_->stop_accepting();
  bool whole = true;
  service_.models.stop_loading();
  for (const ModelLease& model : service_.models.loaded()) {
    whole = model->engine->drain(left()) && whole;
    if (model->embedder) whole = model->embedder->drain(left()) && whole;
  }
  // What the engines said last is still on its way to the clients.
  return http_->wait_until_idle(std::max(left(), std::chrono::milliseconds(1000))) && whole;
}

}  // namespace metal_marlin::server
