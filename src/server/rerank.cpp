// /v1/rerank: documents by how much they are about a query. Models whose files name the tokens of their answer are
// asked each document with it; of all others the vectors of both are compared.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "server/api_error.h"
#include "server/chat.h"
#include "server/embeddings.h"
#include "server/generation.h"
#include "server/routes.h"
#include "server/sampling_fields.h"

namespace metal_marlin::server {
namespace {

struct RerankRequest {
  std::string query;
  std::vector<std::string> documents;
  std::size_t top = 0;
  bool with_documents = false;
};

RerankRequest read_rerank(Fields& fields) {
  RerankRequest out;
  const auto query = fields.text("query");
  if (!query || query->empty()) fields.wrong("query", "a text");
  out.query = *query;
  const OrderedJson* const list = fields.find("documents");
  if (list == nullptr || !list->is_array() || list->empty() || list->size() > kMostInputs)
    fields.wrong("documents", fmt::format("a list of 1 to {} documents", kMostInputs));
  for (std::size_t i = 0; i < list->size(); ++i) {
    const OrderedJson& item = (*list)[i];
    const std::string name = fmt::format("documents[{}]", i);
    std::optional<std::string> text;
    if (item.is_string()) {
      text = item.get<std::string>();
    } else if (item.is_object()) {
      Fields document(item, name);
      text = document.text("text");
      document.refuse_others({});
    }
    if (!text) {
      throw ApiError(400, fmt::format("{} is {}, expected a text, or an object with one", name, shown_json(item)),
                     "documents");
    }
    out.documents.push_back(std::move(*text));
  }
  const auto most = static_cast<std::int64_t>(out.documents.size());
  out.top = static_cast<std::size_t>(std::min(most, fields.integer("top_n", 1, INT32_MAX).value_or(most)));
  out.with_documents = fields.boolean("return_documents", false);
  static_cast<void>(fields.text("user"));
  return out;
}

// The best first; of equal ones that which came first.
void answer_scores(const Call& call, const std::string& model, const RerankRequest& request,
                   const std::vector<double>& scores, std::int64_t tokens) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  OrderedJson results = OrderedJson::array();
  for (std::size_t i = 0; i < request.top; ++i) {
    OrderedJson result = {{"index", order[i]}, {"relevance_score", scores[order[i]]}};
    if (request.with_documents) result["document"] = {{"text", request.documents[order[i]]}};
    results.push_back(std::move(result));
  }
  const OrderedJson answer = {{"id", "rerank-" + call.id},
                              {"object", "list"},
                              {"model", model},
                              {"results", std::move(results)},
                              {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}};
  call.exchange->respond(200, "application/json", json_text(answer));
}

// The prompt of the first of these names that the model has.
std::string prompt_of(const ServedModel& model, std::initializer_list<const char*> names) {
  for (const char* const name : names) {
    for (const auto& [known, text] : model.embedding.prompts) {
      if (known == name) return text;
    }
  }
  return model.embedding.prompt("");
}

void rerank_by_vectors(Service& service, const Call& call, const ServedModel& model, RerankRequest asked) {
  EmbeddingRequest request;
  request.form = {model.embedding.pooling, true, 0};
  const std::string before = prompt_of(model, {"document", "passage"});
  request.inputs.push_back(text_input(prompt_of(model, {"query"}) + asked.query, model, "query"));
  for (std::size_t i = 0; i < asked.documents.size(); ++i)
    request.inputs.push_back(text_input(before + asked.documents[i], model, fmt::format("documents[{}]", i)));
  std::int64_t tokens = 0;
  for (const auto& input : request.inputs) tokens += static_cast<std::int64_t>(input.size());
  start_embedding(
      service, call, model, std::move(request),
      [call, name = model.name, asked = std::move(asked), tokens](const std::vector<std::vector<float>>& vectors) {
        std::vector<double> scores;
        for (std::size_t i = 1; i < vectors.size(); ++i)
          scores.push_back(std::inner_product(vectors[0].begin(), vectors[0].end(), vectors[i].begin(), 0.0));
        answer_scores(call, name, asked, scores, tokens);
      });
}

// A pair as the model's template writes it.
EngineRequest pair_request(const ServedModel& model, const Call& call, const std::string& query,
                           const std::string& document, const std::string& name) {
  Conversation pair;
  pair.messages = OrderedJson::array();
  if (const std::string& system = model.embedding.prompt(""); !system.empty())
    pair.messages.push_back({{"role", "system"}, {"content", system}});
  pair.messages.push_back({{"role", "query"}, {"content", query}});
  pair.messages.push_back({{"role", "document"}, {"content", document}});
  pair.options.add_generation_prompt = true;
  const RelevanceTokens& tokens = *model.embedding.relevance;
  EngineRequest request;
  request.prompt = render_chat(pair, model).tokens;
  request.max_tokens = 1;
  request.sampler.temperature = 0;
  request.ignore_end = true;
  request.logprobs = 0;
  request.logprob_ids = {tokens.yes, tokens.no.value_or(tokens.yes)};
  request.fair_key = call.fair_key;
  check_request(request, model, name, "documents");
  return request;
}

class PairScores : public std::enable_shared_from_this<PairScores> {
 public:
  PairScores(Service& service, const ServedModel& model, const Call& call, RerankRequest asked)
      : model_(model),
        call_(call),
        asked_(std::move(asked)),
        generation_(std::make_shared<Generation>(service, model, call)),
        scores_(asked_.documents.size()) {}

  void start() {
    std::vector<EngineRequest> requests;
    for (std::size_t i = 0; i < asked_.documents.size(); ++i) {
      requests.push_back(
          pair_request(model_, call_, asked_.query, asked_.documents[i], fmt::format("documents[{}]", i)));
    }
    generation_->start(std::move(requests), [self = shared_from_this()](std::size_t index, const EngineEvent& event) {
      self->take(index, event);
    });
  }

 private:
  void take(std::size_t index, const EngineEvent& event) {
    if (over_) return;
    if (const auto failure = failure_of(event)) {
      over_ = true;
      generation_->cancel();
      return call_.exchange->respond(failure->status, "application/json", call_.error(*failure));
    }
    for (const TokenLogprob& drawn : event.logprobs) {
      const double yes = drawn.asked[0];
      // Of two tokens their odds, as a probability; of one how likely it is.
      scores_[index] = model_.embedding.relevance->no ? 1 / (1 + std::exp(drawn.asked[1] - yes)) : std::exp(yes);
    }
    if (!generation_->all_ended()) return;
    over_ = true;
    answer_scores(call_, model_.name, asked_, scores_, generation_->usage().prompt);
  }

  const ServedModel& model_;
  Call call_;
  RerankRequest asked_;
  std::shared_ptr<Generation> generation_;
  std::vector<double> scores_;
  bool over_ = false;
};

}  // namespace

void answer_rerank(Service& service, const Call& call) {
  const OrderedJson body = parse_body(call.request().body);
  Fields fields(body);
  const ServedModel& model = service.model(call, fields.text("model").value_or(""));
  RerankRequest asked = read_rerank(fields);
  fields.refuse_others({});
  refuse_while_draining(service);
  if (service.log.with_prompts()) call.log->set("prompt", body["query"]);
  if (!model.embedding.relevance) return rerank_by_vectors(service, call, model, std::move(asked));
  if (static_cast<std::int64_t>(asked.documents.size()) > kMaxChoices)
    fields.wrong("documents", fmt::format("at most {} documents of a model that is asked each", kMaxChoices));
  std::make_shared<PairScores>(service, model, call, std::move(asked))->start();
}

}  // namespace metal_marlin::server
