#include "grammar/string_formats.h"

#include <fmt/format.h>

namespace metal_marlin {
namespace {

constexpr std::string_view kDate =
    R"(\d{4}-(0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|\d{4}-(0[469]|11)-(0[1-9]|[12]\d|30)|\d{4}-02-(0[1-9]|1\d|2[0-8])|)"
    R"((\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)";
constexpr std::string_view kTime = R"(([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+\-]([01]\d|2[0-3]):[0-5]\d))";
// RFC 3339, appendix A: each part only where a smaller one is not left out between.
constexpr std::string_view kDuration =
    R"(P(\d+W|(\d+Y(\d+M(\d+D)?)?|\d+M(\d+D)?|\d+D)(T(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S))?|)"
    R"(T(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S)))";
constexpr std::string_view kUuid = R"([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})";
constexpr std::string_view kIpv4 = R"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3})";
// Its third and fourth characters are no two hyphens, which begin encoded ones.
constexpr std::string_view kHostLabel =
    R"([a-zA-Z0-9]([a-zA-Z0-9]|[a-zA-Z0-9\-]{1,2}[a-zA-Z0-9]|)"
    R"([a-zA-Z0-9\-]([a-zA-Z0-9][a-zA-Z0-9\-]|-[a-zA-Z0-9])[a-zA-Z0-9\-]{0,58}[a-zA-Z0-9])?)";
constexpr std::string_view kEmail =
    R"([a-zA-Z0-9!#$%&'*+/=?^_`\{|\}~\-]+(\.[a-zA-Z0-9!#$%&'*+/=?^_`\{|\}~\-]+)*@)"
    R"([a-zA-Z0-9]([a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?)*)";
constexpr std::string_view kJsonPointer = R"((/([^~/]|~[01])*)*)";

// RFC 4291's forms, as RFC 3986 writes them.
std::string ipv6() {
  const std::string group = "[0-9a-fA-F]{1,4}";
  const std::string last = fmt::format("({0}:{0}|{1})", group, kIpv4);
  std::string out = fmt::format("({0}:){{6}}{1}|::({0}:){{5}}{1}", group, last);
  for (int after = 4; after >= 0; --after) {
    const int before = 5 - after;  // at most so many groups stand before the two colons
    out += fmt::format("|(({0}:){{0,{1}}}{0})?::({0}:){{{2}}}{3}", group, before - 1, after, last);
  }
  out += fmt::format("|(({0}:){{0,5}}{0})?::{0}|(({0}:){{0,6}}{0})?::", group);
  return out;
}

// RFC 3986.
std::string uri(bool may_be_relative) {
  const std::string encoded = "%[0-9a-fA-F]{2}";
  const std::string plain = R"(a-zA-Z0-9\-._~!$&'()*+,;=)";
  const std::string pchar = fmt::format("([{}:@]|{})", plain, encoded);
  const std::string host =
      fmt::format(R"((\[({}|[vV][0-9a-fA-F]+\.[{}:]+)\]|([{}]|{})*))", ipv6(), plain, plain, encoded);
  const std::string authority = fmt::format(R"((([{}:]|{})*@)?{}(:\d*)?)", plain, encoded, host);
  const std::string absolute = fmt::format("/({0}+(/{0}*)*)?", pchar);
  const std::string with_authority = fmt::format("//{}(/{}*)*", authority, pchar);
  const std::string end = fmt::format(R"((\?({0}|[/?])*)?(#({0}|[/?])*)?)", pchar);
  std::string whole =
      fmt::format(R"([a-zA-Z][a-zA-Z0-9+\-.]*:({0}|{1}|{2}+(/{2}*)*|){3})", with_authority, absolute, pchar, end);
  if (!may_be_relative) return whole;
  const std::string first =
      fmt::format("([{}@]|{})", plain, encoded);  // without a colon, which a scheme would end with
  return fmt::format("{}|({}|{}|{}+(/{}*)*|){}", whole, with_authority, absolute, first, pchar, end);
}

}  // namespace

std::optional<std::string> pattern_of_format(std::string_view format) {
  if (format == "date") return std::string(kDate);
  if (format == "time") return std::string(kTime);
  if (format == "date-time") return fmt::format("({})[Tt]{}", kDate, kTime);
  if (format == "duration") return std::string(kDuration);
  if (format == "uuid") return std::string(kUuid);
  if (format == "ipv4") return std::string(kIpv4);
  if (format == "ipv6") return ipv6();
  if (format == "hostname") return fmt::format(R"({0}(\.{0})*)", kHostLabel);
  if (format == "email") return std::string(kEmail);
  if (format == "uri") return uri(false);
  if (format == "uri-reference") return uri(true);
  if (format == "json-pointer") return std::string(kJsonPointer);
  return std::nullopt;
}

}  // namespace metal_marlin
