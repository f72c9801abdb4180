// What is said to `chat` itself: lines that begin with "/".
#pragma once

#include <optional>
#include <string>

#include "cli/chat_session.h"

namespace metal_marlin::cli {

// Commands with what they do, a line each.
std::string chat_help();

// Runs a line's command. \returns false to leave. \throws Error (kInvalidArgument) for what is none; as they do.
bool run_chat_command(ChatSession& session, const std::string& line);

// Tells how an answer ended where it did not end by itself.
void notice_end(const ChatSession& session, const ChatReply& reply);

}  // namespace metal_marlin::cli
