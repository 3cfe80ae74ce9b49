// One message of a conversation, for callers that do not need tools or content parts.
#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace tandem {

struct ChatMessage {
  std::string role;     // "system", "user", "assistant"
  std::string content;  // UTF-8
};

// What ChatTemplate::Render takes.
inline nlohmann::ordered_json ToJson(const std::vector<ChatMessage>& messages) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const ChatMessage& m : messages) json.push_back({{"role", m.role}, {"content", m.content}});
  return json;
}

}  // namespace tandem
