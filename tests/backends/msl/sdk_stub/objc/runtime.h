// Stands for a header of the macOS SDK: what metal-cpp needs of it to be compiled, not to run.
#pragma once

#include <cmath>
#include <cstddef>

struct objc_object {
  struct objc_class* isa;
};
using SEL = struct objc_selector*;
using Class = struct objc_class*;
using id = objc_object*;
using BOOL = signed char;
using Method = struct objc_method*;
using IMP = void (*)();
struct Protocol;
extern "C" {
SEL sel_registerName(const char* name);
Class objc_lookUpClass(const char* name);
Class objc_getClass(const char* name);
Protocol* objc_getProtocol(const char* name);
Class object_getClass(id object);
Method class_getInstanceMethod(Class type, SEL name);
bool class_respondsToSelector(Class type, SEL name);
Class objc_allocateClassPair(Class super, const char* name, std::size_t extra);
void objc_registerClassPair(Class type);
bool class_addMethod(Class type, SEL name, IMP body, const char* types);
}
