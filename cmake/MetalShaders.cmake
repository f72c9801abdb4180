# metal_marlin_add_shaders(): compiles every shaders/NAME.metal into metal_marlin, for the executors that the options
# name: objects for this processor, plain and instrumented; PTX; and the text as one file, for Metal. PTX and text are
# compressed. Errors name the .metal file's lines.
if(APPLE)  # Mach-O, and no NVIDIA GPUs
  set(METAL_MARLIN_SHADER_ARCH arm64)
  set(METAL_MARLIN_SHADER_TRIPLE arm64-apple-macos14)
  set(METAL_MARLIN_SHADER_SECTION __TEXT,__const)
  set(METAL_MARLIN_SYMBOL_PREFIX _)
  set(METAL_MARLIN_INNER_SYMBOL .alt_entry)  # else ld may move an end away from what it ends
else()
  set(METAL_MARLIN_SHADER_ARCH ${CMAKE_SYSTEM_PROCESSOR})
  set(METAL_MARLIN_SHADER_TRIPLE ${CMAKE_SYSTEM_PROCESSOR}-unknown-linux-gnu)
  set(METAL_MARLIN_SHADER_SECTION .rodata)
  set(METAL_MARLIN_SYMBOL_PREFIX "")
  set(METAL_MARLIN_INNER_SYMBOL .globl)
endif()
find_package(ShaderClang 19 EXACT REQUIRED)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
find_package(Zstd REQUIRED)
find_program(METAL_MARLIN_ZSTD_PROGRAM zstd REQUIRED)

set(METAL_MARLIN_SHADER_OBJECTS "" CACHE PATH
  "build/NAME/src/shaders of another build for this processor: its compiled shaders are taken, plain and as text")

set(METAL_MARLIN_MSLC ${PROJECT_SOURCE_DIR}/tools/msl/mslc.py)
set(METAL_MARLIN_RUN_MSLC ${CMAKE_COMMAND} -E env METAL_MARLIN_CLANG=${METAL_MARLIN_CLANG} ${Python3_EXECUTABLE}
  ${METAL_MARLIN_MSLC})
file(GLOB METAL_MARLIN_MSL_TOOL CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tools/msl/include/*
  ${PROJECT_SOURCE_DIR}/tools/msl/include/msl/*.h)
# What compiles; the other scripts check.
foreach(script compile mslc reflect rewrite source uses)
  list(APPEND METAL_MARLIN_MSL_TOOL ${PROJECT_SOURCE_DIR}/tools/msl/${script}.py)
endforeach()

# metal_marlin_compile_shader(OUTPUT NAME COMMENT ARGUMENTS...): one run of mslc.py, with the headers that it reads.
function(metal_marlin_compile_shader output name comment)
  if(METAL_MARLIN_SHADER_OBJECTS)
    return()
  endif()
  add_custom_command(OUTPUT ${output} DEPENDS ${PROJECT_SOURCE_DIR}/shaders/${name}.metal ${METAL_MARLIN_MSL_TOOL}
    DEPFILE ${output}.d COMMENT "Shader ${name}${comment}"
    COMMAND ${METAL_MARLIN_RUN_MSLC} ${ARGN} ${PROJECT_SOURCE_DIR}/shaders/${name}.metal -o ${output}
      --depfile ${output}.d)
endfunction()

# Appends to `objects` what is linked, to `files` what embedded_shaders.cpp takes in, and its lines.
function(metal_marlin_add_shader name)
  set(out ${shaders}/${name})
  set(host --arch ${METAL_MARLIN_SHADER_ARCH} --isolate)
  set(level 2)
  if(METAL_MARLIN_SANITIZE OR CMAKE_CROSSCOMPILING)  # compiled in two thirds of the time, for machines where speed is not asked
    set(level 1)
  endif()
  set(table --table)  # of kernels and arguments, which every executor needs
  if(METAL_MARLIN_MSL_HOST)
    set(table)
    if(METAL_MARLIN_SANITIZE MATCHES "address")
      set(table --sanitize address)
    endif()
  endif()
  metal_marlin_compile_shader(${out}.o ${name} "" object ${host} --level ${level} --symbol msl_library_${name}
    ${table})
  list(APPEND objects ${out}.o)
  set(instrumented nullptr)
  if(METAL_MARLIN_DETECTORS)
    metal_marlin_compile_shader(${out}.debug.o ${name} ", instrumented" object ${host} --instrument
      --symbol msl_debug_library_${name})
    list(APPEND objects ${out}.debug.o)
    set(instrumented &msl_debug_library_${name})
  endif()
  set(ptx ${CMAKE_CURRENT_BINARY_DIR}/shaders/none)
  if(METAL_MARLIN_CUDA)
    set(ptx ${out}.ptx.zst)
    metal_marlin_compile_shader(${ptx} ${name} ", PTX" ptx --isolate --pack)
    list(APPEND files ${ptx})
  endif()
  metal_marlin_compile_shader(${out}.metal.zst ${name} ", as one file" flat --pack)
  list(APPEND files ${out}.metal.zst)
  string(APPEND declarations "MM_SHADER(${name}, \"${ptx}\", \"${out}.metal.zst\")\n")
  string(APPEND entries "      MM_ENTRY(${name}, ${instrumented}),\n")
  foreach(variable objects files declarations entries)
    set(${variable} "${${variable}}" PARENT_SCOPE)
  endforeach()
endfunction()

function(metal_marlin_add_shaders)
  set(shaders ${CMAKE_CURRENT_BINARY_DIR}/shaders)
  if(METAL_MARLIN_SHADER_OBJECTS)
    set(shaders ${METAL_MARLIN_SHADER_OBJECTS})
  endif()
  set(builtins ${CMAKE_CURRENT_BINARY_DIR}/shaders/builtins.o)
  add_custom_command(OUTPUT ${builtins} DEPENDS ${PROJECT_SOURCE_DIR}/tools/msl/builtins.cpp
    COMMAND ${METAL_MARLIN_CLANG} --target=${METAL_MARLIN_SHADER_TRIPLE} -O2 -fPIC -nostdinc
      -c ${PROJECT_SOURCE_DIR}/tools/msl/builtins.cpp -o ${builtins})
  set(objects ${builtins})
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/shaders/none "")  # what stands for PTX in builds without CUDA
  file(GLOB names CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/shaders ${PROJECT_SOURCE_DIR}/shaders/*.metal)
  list(SORT names)
  list(TRANSFORM names REPLACE "\\.metal$" "")
  foreach(name ${names})
    metal_marlin_add_shader(${name})
  endforeach()
  set(prefix "${METAL_MARLIN_SYMBOL_PREFIX}")
  set(section ${METAL_MARLIN_SHADER_SECTION})
  set(inner ${METAL_MARLIN_INNER_SYMBOL})
  set(table ${CMAKE_CURRENT_BINARY_DIR}/embedded_shaders.cpp)
  file(CONFIGURE OUTPUT ${table} CONTENT [[// Generated by cmake/MetalShaders.cmake.
#include <vector>

#include "backends/msl/device.h"

#define MM_FILE(label, path) \
  ".globl @prefix@" label "\n@prefix@" label ": .incbin \"" path "\"\n" \
  ".globl @prefix@" label "_end\n@inner@ @prefix@" label "_end\n@prefix@" label "_end: .byte 0\n"
#define MM_SHADER(name, ptx, source) \
  extern "C" const MslLibrary msl_library_##name, msl_debug_library_##name; \
  extern "C" const std::byte msl_ptx_##name[], msl_ptx_##name##_end[], msl_source_##name[], msl_source_##name##_end[]; \
  asm(".section @section@\n" MM_FILE("msl_ptx_" #name, ptx) MM_FILE("msl_source_" #name, source) ".text\n");
#define MM_ENTRY(name, instrumented) \
  {#name, &msl_library_##name, instrumented, {msl_ptx_##name, msl_ptx_##name##_end}, {msl_source_##name, msl_source_##name##_end}}

@declarations@
namespace metal_marlin::msl {
std::span<const EmbeddedShader> embedded_shaders() {
  static const std::vector<EmbeddedShader> all = {
@entries@  };
  return all;
}
}  // namespace metal_marlin::msl
]] @ONLY)
  set_source_files_properties(${table} PROPERTIES OBJECT_DEPENDS "${files}" SKIP_UNITY_BUILD_INCLUSION ON)
  set_source_files_properties(${objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  target_sources(metal_marlin PRIVATE ${table} ${objects})
  add_custom_target(metal_marlin_shaders DEPENDS ${objects} ${files})
endfunction()
