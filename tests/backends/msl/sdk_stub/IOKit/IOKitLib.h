// Stands for a header of the macOS SDK: what the Metal device needs of it to be compiled.
#pragma once

#include <CoreFoundation/CoreFoundation.h>

using mach_port_t = unsigned int;
using io_object_t = mach_port_t;
using io_registry_entry_t = io_object_t;
using io_service_t = io_object_t;
using IOOptionBits = std::uint32_t;
using IOReturn = int;
constexpr mach_port_t kIOMainPortDefault = 0;
extern "C" {
CFMutableDictionaryRef IOServiceMatching(const char* name);
io_service_t IOServiceGetMatchingService(mach_port_t main_port, CFDictionaryRef matching);
CFTypeRef IORegistryEntryCreateCFProperty(io_registry_entry_t entry, CFStringRef key, CFAllocatorRef allocator,
                                          IOOptionBits options);
IOReturn IOObjectRelease(io_object_t object);
}
