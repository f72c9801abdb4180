# Sets METAL_MARLIN_CLANG, LLVM's clang that compiles the shaders: what the user or the environment names, else
# clang-19 on PATH or in Homebrew's keg, whose programs are not on PATH.
if(NOT METAL_MARLIN_CLANG AND NOT "$ENV{METAL_MARLIN_CLANG}" STREQUAL "")
  find_program(METAL_MARLIN_CLANG "$ENV{METAL_MARLIN_CLANG}" REQUIRED)
endif()
include(${CMAKE_CURRENT_LIST_DIR}/Homebrew.cmake)
find_program(METAL_MARLIN_CLANG clang-19 PATHS ${METAL_MARLIN_HOMEBREW}/opt/llvm@19/bin)
find_program(METAL_MARLIN_CLANG clang PATHS ${METAL_MARLIN_HOMEBREW}/opt/llvm@19/bin NO_DEFAULT_PATH)
set(ShaderClang_text "")
if(METAL_MARLIN_CLANG)
  execute_process(COMMAND ${METAL_MARLIN_CLANG} --version OUTPUT_VARIABLE ShaderClang_text ERROR_QUIET)
endif()
set(ShaderClang_VERSION 0)
if(NOT ShaderClang_text MATCHES "Apple clang" AND ShaderClang_text MATCHES "clang version ([0-9]+)")
  set(ShaderClang_VERSION ${CMAKE_MATCH_1})
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ShaderClang REQUIRED_VARS METAL_MARLIN_CLANG VERSION_VAR ShaderClang_VERSION
  REASON_FAILURE_MESSAGE "LLVM's clang is meant, not Apple's: METAL_MARLIN_CLANG names it, Homebrew's package is llvm@19")
