#include <CoreFoundation/CoreFoundation.h>
#include <IOKit/IOKitLib.h>
#include <fmt/format.h>

#include <Foundation/Foundation.hpp>
#include <algorithm>
#include <cstring>
#include <map>

#include "rules.h"

namespace {

using metal_stub::Lock;
using metal_stub::Rule;

// Every object since the test began, those let go too.
std::vector<NS::Object*>& objects() {
  static std::vector<NS::Object*> all;
  return all;
}

// Of this thread; the last is the innermost.
std::vector<std::pair<const NS::Object*, std::vector<NS::Object*>>>& pools() {
  thread_local std::vector<std::pair<const NS::Object*, std::vector<NS::Object*>>> all;
  return all;
}

int& core_foundation_objects() {
  static int live = 0;
  return live;
}

}  // namespace

namespace metal_stub {

std::recursive_mutex& mutex() {
  static std::recursive_mutex one;
  return one;
}

std::map<std::string, int> live_objects() {
  const Lock lock(mutex());
  std::map<std::string, int> left;
  for (const NS::Object* const object : objects()) {
    if (object->alive_()) ++left[object->type_()];
  }
  return left;
}

// What is left is reported, and everything freed.
void end_of_objects() {
  for (const auto& [type, count] : live_objects()) report(Rule::kLeak, fmt::format("{} of {} left", count, type));
  if (core_foundation_objects() != 0) report(Rule::kLeak, "CoreFoundation objects left");
  core_foundation_objects() = 0;
  const std::vector<NS::Object*> all = std::move(objects());
  objects().clear();
  for (const NS::Object* const object : all) delete object;
}

}  // namespace metal_stub

namespace NS {

Object::Object(const char* type) : type_name_(type) {
  const Lock lock(metal_stub::mutex());
  objects().push_back(this);
}
Object::~Object() = default;

void Object::touch_(const char* method) const {
  if (references_ <= 0) report(Rule::kUseAfterRelease, fmt::format("{}: {}", type_name_, method));
}

Object* Object::retain() {
  const Lock lock(metal_stub::mutex());
  touch_("retain");
  ++references_;
  return this;
}

void Object::release() {
  const Lock lock(metal_stub::mutex());
  if (references_ <= 0) return report(Rule::kOverRelease, type_name_);
  if (--references_ == 0) dealloc_();
}

Object* Object::autorelease() {
  const Lock lock(metal_stub::mutex());
  touch_("autorelease");
  if (pools().empty()) {
    report(Rule::kPool, fmt::format("{} is left to a pool, and the thread has none", type_name_));
  } else {
    pools().back().second.push_back(this);
  }
  return this;
}

AutoreleasePool* AutoreleasePool::alloc() {
  return new AutoreleasePool;
}
AutoreleasePool* AutoreleasePool::init() {
  pools().emplace_back(this, std::vector<Object*>());
  return this;
}
void AutoreleasePool::dealloc_() {
  if (pools().empty() || pools().back().first != this)
    return report(Rule::kPool, "a pool ends that is not its thread's innermost");
  const std::vector<Object*> left = std::move(pools().back().second);
  pools().pop_back();
  for (Object* const object : left) object->release();
}

String* String::string(const char* text, StringEncoding) {
  return (new String(text))->autorelease();
}
const char* String::utf8String() const {
  touch_("utf8String");
  return text_.c_str();
}

Array::Array(std::vector<Object*> objects) : Referencing("NS::Array"), objects_(std::move(objects)) {
  for (Object* const object : objects_) object->retain();
}
void Array::dealloc_() {
  for (Object* const object : objects_) object->release();
}
UInteger Array::count() const {
  touch_("count");
  return objects_.size();
}
Object* Array::at_(UInteger index) const {
  touch_("object");
  return objects_.at(index);
}

Dictionary::Dictionary(std::map<const Object*, Object*> entries)
    : Referencing("NS::Dictionary"), entries_(std::move(entries)) {
  for (const auto& [key, value] : entries_) value->retain();
}
void Dictionary::dealloc_() {
  for (const auto& [key, value] : entries_) value->release();
}
Object* Dictionary::at_(const Object* key) const {
  touch_("object");
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : found->second;
}

Error::Error(std::string text, Dictionary* info) : Referencing("NS::Error"), text_(std::move(text)), info_(info) {
  if (info_ != nullptr) info_->retain();
}
void Error::dealloc_() {
  if (info_ != nullptr) info_->release();
}
String* Error::localizedDescription() const {
  touch_("localizedDescription");
  return String::string(text_.c_str(), UTF8StringEncoding);
}
Dictionary* Error::userInfo() const {
  touch_("userInfo");
  return info_;
}

ProcessInfo* ProcessInfo::processInfo() {
  return (new ProcessInfo)->autorelease();
}
bool ProcessInfo::isOperatingSystemAtLeastVersion(OperatingSystemVersion version) const {
  touch_("isOperatingSystemAtLeastVersion");
  return metal_stub::machine().macos >= version.majorVersion;
}

}  // namespace NS

// The I/O registry, with one GPU. Objects are numbers' addresses.
struct __CFString {
  std::string text;
};
struct __CFNumber {
  std::int32_t value;
};
struct __CFDictionary {
  std::string name;
};
namespace {
constexpr io_service_t kGpu = 7;
constexpr CFTypeID kNumber = 22;
// Which of the three each is.
std::map<CFTypeRef, int>& core_foundation_types() {
  static std::map<CFTypeRef, int> types;
  return types;
}
template <typename T>
T* core_foundation(T* object, int type) {
  ++core_foundation_objects();
  core_foundation_types()[object] = type;
  return object;
}
}  // namespace

extern "C" {
void CFRelease(CFTypeRef object) {
  const Lock lock(metal_stub::mutex());
  const auto found = core_foundation_types().find(object);
  if (found == core_foundation_types().end()) return metal_stub::report(Rule::kOverRelease, "CFRelease");
  if (found->second == 0) delete static_cast<CFStringRef>(object);
  if (found->second == 1) delete static_cast<CFNumberRef>(object);
  if (found->second == 2) delete static_cast<CFDictionaryRef>(object);
  core_foundation_types().erase(found);
  --core_foundation_objects();
}
CFTypeID CFNumberGetTypeID() {
  return kNumber;
}
CFTypeID CFGetTypeID(CFTypeRef object) {
  const Lock lock(metal_stub::mutex());
  return core_foundation_types().at(object) == 1 ? kNumber : 0;
}
Boolean CFNumberGetValue(CFNumberRef number, CFNumberType type, void* value) {
  if (type != kCFNumberSInt32Type) return 0;
  std::memcpy(value, &number->value, sizeof(number->value));
  return 1;
}
CFStringRef CFStringCreateWithCString(CFAllocatorRef, const char* text, CFStringEncoding) {
  const Lock lock(metal_stub::mutex());
  return core_foundation(new __CFString{text}, 0);
}
CFMutableDictionaryRef IOServiceMatching(const char* name) {
  const Lock lock(metal_stub::mutex());
  return core_foundation(new __CFDictionary{name}, 2);
}
// Takes the reference to `matching`.
io_service_t IOServiceGetMatchingService(mach_port_t, CFDictionaryRef matching) {
  const Lock lock(metal_stub::mutex());
  const bool found = matching->name == "AGXAccelerator" && metal_stub::machine().cores > 0;
  CFRelease(matching);
  if (found) ++core_foundation_objects();
  return found ? kGpu : 0;
}
CFTypeRef IORegistryEntryCreateCFProperty(io_registry_entry_t entry, CFStringRef key, CFAllocatorRef, IOOptionBits) {
  const Lock lock(metal_stub::mutex());
  if (entry != kGpu || key->text != "gpu-core-count") return nullptr;
  return core_foundation(new __CFNumber{metal_stub::machine().cores}, 1);
}
IOReturn IOObjectRelease(io_object_t) {
  const Lock lock(metal_stub::mutex());
  --core_foundation_objects();
  return 0;
}
}
