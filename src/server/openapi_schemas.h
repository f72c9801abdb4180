// What requests and answers are, as JSON Schema.
#pragma once

#include <string>

#include "server/service.h"

namespace metal_marlin::server {

// What POST /slots/ID takes for `filename`.
OrderedJson slot_file_name();

// The body of a route; null: it takes none.
OrderedJson request_schema(const std::string& path, const Service& service);

// What a route answers with status 200 as application/json; null: it answers no JSON.
OrderedJson answer_schema(const std::string& path);

// An event of what a route answers where `stream` is true; null: it never does.
OrderedJson event_schema(const std::string& path);

// What everything that went wrong is answered with; of Anthropic's API in its shape.
OrderedJson error_schema();
OrderedJson message_error_schema();

}  // namespace metal_marlin::server
