# macOS: what the build is for, and Homebrew's packages that CMake does not find by itself.
if(CMAKE_OSX_ARCHITECTURES)
  set(METAL_MARLIN_ARCHITECTURES "${CMAKE_OSX_ARCHITECTURES}")
else()
  set(METAL_MARLIN_ARCHITECTURES "${CMAKE_SYSTEM_PROCESSOR}")
endif()
if(NOT METAL_MARLIN_ARCHITECTURES STREQUAL "arm64")
  message(FATAL_ERROR "On macOS only Apple silicon is supported: this build is for '${METAL_MARLIN_ARCHITECTURES}', "
    "expected 'arm64'. On such a Mac under Rosetta, use a terminal and a cmake of arm64 (arch -arm64 zsh; "
    "/opt/homebrew/bin/cmake), and leave CMAKE_OSX_ARCHITECTURES empty.")
endif()
if(CMAKE_OSX_DEPLOYMENT_TARGET VERSION_LESS 14.0)
  message(FATAL_ERROR "CMAKE_OSX_DEPLOYMENT_TARGET is '${CMAKE_OSX_DEPLOYMENT_TARGET}', expected 14.0 or later: "
    "the shaders are written in Metal 3.1")
endif()

set(CMAKE_COMPILE_WARNING_AS_ERROR OFF)  # Apple's compilers warn of other things every year

include(${CMAKE_CURRENT_LIST_DIR}/Homebrew.cmake)
metal_marlin_use_keg(openssl@3)
