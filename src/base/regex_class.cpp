#include "base/regex_class.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "base/regex_syntax.h"

namespace metal_marlin {
namespace {

// PCRE2's \s also holds U+180E, and its \w lacks marks.
constexpr std::string_view kSpace =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
// Outside brackets \w is looked up in tables that call Latin-1's superscripts and fractions letters.
constexpr std::string_view kShorthandWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
constexpr std::string_view kHex = "0-9a-fA-F";

std::string folded_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c != ' ' && c != '-' && c != '_') out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return out;
}

// General categories by their long names.
const std::map<std::string, std::string>& category_names() {
  static const std::map<std::string, std::string> names{{"other", "C"},
                                                        {"control", "Cc"},
                                                        {"format", "Cf"},
                                                        {"unassigned", "Cn"},
                                                        {"privateuse", "Co"},
                                                        {"surrogate", "Cs"},
                                                        {"letter", "L"},
                                                        {"casedletter", "L&"},
                                                        {"lc", "L&"},
                                                        {"lowercaseletter", "Ll"},
                                                        {"modifierletter", "Lm"},
                                                        {"otherletter", "Lo"},
                                                        {"titlecaseletter", "Lt"},
                                                        {"uppercaseletter", "Lu"},
                                                        {"mark", "M"},
                                                        {"combiningmark", "M"},
                                                        {"spacingmark", "Mc"},
                                                        {"enclosingmark", "Me"},
                                                        {"nonspacingmark", "Mn"},
                                                        {"number", "N"},
                                                        {"decimalnumber", "Nd"},
                                                        {"letternumber", "Nl"},
                                                        {"othernumber", "No"},
                                                        {"punctuation", "P"},
                                                        {"connectorpunctuation", "Pc"},
                                                        {"dashpunctuation", "Pd"},
                                                        {"closepunctuation", "Pe"},
                                                        {"finalpunctuation", "Pf"},
                                                        {"initialpunctuation", "Pi"},
                                                        {"otherpunctuation", "Po"},
                                                        {"openpunctuation", "Ps"},
                                                        {"symbol", "S"},
                                                        {"currencysymbol", "Sc"},
                                                        {"modifiersymbol", "Sk"},
                                                        {"mathsymbol", "Sm"},
                                                        {"othersymbol", "So"},
                                                        {"separator", "Z"},
                                                        {"lineseparator", "Zl"},
                                                        {"paragraphseparator", "Zp"},
                                                        {"spaceseparator", "Zs"}};
  return names;
}

// The category that a folded name stands for; empty when it is none.
std::string category(const std::string& name) {
  const auto found = category_names().find(name);
  if (found != category_names().end()) return found->second;
  constexpr std::string_view kShort =
      "c cc cf cn co cs l ll lm lo lt lu m mc me mn n nd nl no p pc pd pe pf pi po ps "
      "s sc sk sm so z zl zp zs ";
  if (name.empty() || name.size() > 2 || kShort.find(name + " ") == std::string_view::npos) return "";
  std::string out = name;
  out[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(out[0])));
  return out;
}

}  // namespace

std::string CharacterSet::expression() const {
  if (others.empty()) {
    if (!items.empty()) return fmt::format("[{}{}]", negated ? "^" : "", items);
    return negated ? "(?s:.)" : "(?!)";
  }
  std::string any = items.empty() ? "" : fmt::format("[{}]|", items);
  any += fmt::format("{}", fmt::join(others, "|"));
  return negated ? fmt::format("(?:(?!{})(?s:.))", any) : fmt::format("(?:{})", any);
}

void CharacterSet::unite(const CharacterSet& other) {
  cased = cased || other.cased;
  if (other.negated) {
    others.push_back(other.expression());
    return;
  }
  items += other.items;
  others.insert(others.end(), other.others.begin(), other.others.end());
}

CharacterSet shorthand_set(char letter, bool in_brackets) {
  const std::string word(in_brackets ? kWord : kShorthandWord);
  switch (letter) {
    case 'd': return {R"(\p{Nd})", {}, false};
    case 'D': return {R"(\P{Nd})", {}, false};
    case 's': return {std::string(kSpace), {}, false};
    case 'S': return {std::string(kSpace), {}, true};
    case 'h': return {std::string(kHex), {}, false};
    case 'H': return {std::string(kHex), {}, true};
    case 'w': return {word, {}, false};
    default: return {word, {}, true};
  }
}

bool posix_set(std::string_view name, CharacterSet& set) {
  static const std::map<std::string_view, std::string_view> sets{{"alnum", R"(\p{Alphabetic}\p{Nd})"},
                                                                 {"alpha", R"(\p{Alphabetic})"},
                                                                 {"ascii", R"(\x00-\x7f)"},
                                                                 {"blank", R"(\x09\p{Zs})"},
                                                                 {"cntrl", R"(\p{Cc})"},
                                                                 {"digit", R"(\p{Nd})"},
                                                                 {"lower", R"(\p{Lowercase})"},
                                                                 {"punct", R"(\p{P}\p{S})"},
                                                                 {"space", kSpace},
                                                                 {"upper", R"(\p{Uppercase})"},
                                                                 {"word", kWord},
                                                                 {"xdigit", kHex}};
  if (name == "graph" || name == "print") {
    set = {R"(\p{Cc}\p{Cn}\p{Cs}\x{2028}\x{2029})", {}, true};
    if (name == "graph") set.items += kSpace;
    return true;
  }
  const auto found = sets.find(name);
  if (found == sets.end()) return false;
  set = {std::string(found->second), {}, false};
  return true;
}

bool property_set(std::string_view name, CharacterSet& set) {
  const std::string folded = folded_name(name);
  const std::string general = category(folded);
  if (!general.empty()) {
    set = {fmt::format(R"(\p{{{}}})", general), {}, false};
    return true;
  }
  if (folded == "any") {
    set = {R"(\x{0}-\x{10ffff})", {}, false};
    return true;
  }
  if (folded == "assigned") {
    set = {R"(\P{Cn})", {}, false};
    return true;
  }
  if (folded == "punct") {  // unlike the bracket of that name
    set = {R"(\p{P})", {}, false};
    return true;
  }
  if (posix_set(folded, set)) return true;
  if (folded.empty() ||
      !std::all_of(folded.begin(), folded.end(), [](unsigned char c) { return std::isalnum(c) != 0; }))
    return false;
  // Scripts are those of the character itself, not of its extensions.
  for (const std::string& item : {fmt::format(R"(\p{{sc:{}}})", folded), fmt::format(R"(\p{{{}}})", folded)}) {
    if (!pcre2_accepts(item)) continue;
    set = {item, {}, false};
    return true;
  }
  return false;
}

CharacterSet without_case(CharacterSet set) {
  for (const std::string_view cased : {R"(\p{Lu})", R"(\p{Ll})", R"(\p{Lt})", R"(\p{Lowercase})", R"(\p{Uppercase})"}) {
    if (set.items != cased) continue;
    // The letters that a negated one lacks come back as the other case of those that it has.
    if (set.negated) return {R"(\x{0}-\x{10ffff})", {}, false, true};
    return {cased.size() == 6 ? R"(\p{L&})" : R"(\p{Lowercase}\p{Uppercase}\p{Lt})", {}, false, true};
  }
  return set;
}

}  // namespace metal_marlin
