// A stand-in for metal-cpp's Foundation: of its names and signatures those that the Metal device uses,
// so that the device compiles against either. Objects are counted as Objective-C counts them, and
// misuse is reported (rules.h). Objects that are let go stay in memory until their test ends, for use
// after release to be seen. Members that end in _ are the stand-in's own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace NS {

using UInteger = std::uintptr_t;
using Integer = std::intptr_t;
enum StringEncoding : UInteger { UTF8StringEncoding = 4 };

class Object {
 public:
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object();
  Object* retain();
  void release();
  Object* autorelease();

  // Reports a use after release.
  void touch_(const char* method) const;
  [[nodiscard]] const char* type_() const { return type_name_; }
  [[nodiscard]] bool alive_() const { return references_ > 0; }

 protected:
  explicit Object(const char* type);
  // The last reference is gone.
  virtual void dealloc_() {}

 private:
  const char* type_name_;
  std::atomic<int> references_ = 1;
};

template <class T, class Base = Object>
class Referencing : public Base {
 public:
  T* retain() { return static_cast<T*>(Object::retain()); }
  T* autorelease() { return static_cast<T*>(Object::autorelease()); }

 protected:
  using Base::Base;
};

template <class T>
class SharedPtr {
 public:
  SharedPtr() = default;
  SharedPtr(std::nullptr_t) noexcept {}
  SharedPtr(const SharedPtr& other) noexcept : object_(other.object_) { retain(); }
  SharedPtr(SharedPtr&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  SharedPtr& operator=(const SharedPtr& other) {
    SharedPtr(other).swap(*this);
    return *this;
  }
  SharedPtr& operator=(SharedPtr&& other) noexcept {
    SharedPtr(std::move(other)).swap(*this);
    return *this;
  }
  ~SharedPtr() { reset(); }
  [[nodiscard]] T* get() const { return object_; }
  T* operator->() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }
  void reset() {
    if (object_ != nullptr) object_->release();
    object_ = nullptr;
  }

 private:
  template <class U>
  friend SharedPtr<U> TransferPtr(U* object);
  template <class U>
  friend SharedPtr<U> RetainPtr(U* object);
  void retain() {
    if (object_ != nullptr) object_->retain();
  }
  void swap(SharedPtr& other) noexcept { std::swap(object_, other.object_); }
  T* object_ = nullptr;
};
template <class T>
SharedPtr<T> TransferPtr(T* object) {
  SharedPtr<T> out;
  out.object_ = object;
  return out;
}
template <class T>
SharedPtr<T> RetainPtr(T* object) {
  SharedPtr<T> out = TransferPtr(object);
  out.retain();
  return out;
}

class String : public Referencing<String> {
 public:
  static String* string(const char* text, StringEncoding encoding);
  [[nodiscard]] const char* utf8String() const;
  explicit String(std::string text) : Referencing("NS::String"), text_(std::move(text)) {}
  const std::string text_;
};

class Array : public Referencing<Array> {
 public:
  [[nodiscard]] UInteger count() const;
  template <class T = Object>
  T* object(UInteger index) const {
    return static_cast<T*>(at_(index));
  }
  explicit Array(std::vector<Object*> objects);  // keeps them
  [[nodiscard]] Object* at_(UInteger index) const;

 private:
  void dealloc_() override;
  std::vector<Object*> objects_;
};

class Dictionary : public Referencing<Dictionary> {
 public:
  template <class T = Object>
  T* object(const Object* key) const {
    return static_cast<T*>(at_(key));
  }
  explicit Dictionary(std::map<const Object*, Object*> entries);  // keeps the values
  [[nodiscard]] Object* at_(const Object* key) const;

 private:
  void dealloc_() override;
  std::map<const Object*, Object*> entries_;
};

using ErrorUserInfoKey = String*;
class Error : public Referencing<Error> {
 public:
  [[nodiscard]] String* localizedDescription() const;
  [[nodiscard]] Dictionary* userInfo() const;
  Error(std::string text, Dictionary* info);  // keeps it
 private:
  void dealloc_() override;
  std::string text_;
  Dictionary* info_;
};

class AutoreleasePool : public Object {
 public:
  static AutoreleasePool* alloc();
  AutoreleasePool* init();

 private:
  AutoreleasePool() : Object("NS::AutoreleasePool") {}
  void dealloc_() override;
};

struct OperatingSystemVersion {
  Integer majorVersion, minorVersion, patchVersion;
};
class ProcessInfo : public Referencing<ProcessInfo> {
 public:
  static ProcessInfo* processInfo();
  [[nodiscard]] bool isOperatingSystemAtLeastVersion(OperatingSystemVersion version) const;

 private:
  ProcessInfo() : Referencing("NS::ProcessInfo") {}
};

struct Range {
  static Range Make(UInteger begin, UInteger size) { return {begin, size}; }
  UInteger location, length;
};

}  // namespace NS
