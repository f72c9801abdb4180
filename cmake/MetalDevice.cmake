# macOS: the Metal device, Apple's metal-cpp for it, and every shader in one metallib beside the
# programs. Without Apple's shader compiler (Xcode's) shaders are compiled when they are needed.
set(METAL_MARLIN_METAL_CPP "" CACHE PATH "Apple's metal-cpp, the folder of Metal/Metal.hpp; empty: fetched through pip")

# Sets `out` to the folder of metal-cpp.
function(metal_marlin_find_metal_cpp out)
  set(folder "${METAL_MARLIN_METAL_CPP}")
  if(folder STREQUAL "")
    execute_process(COMMAND ${PROJECT_SOURCE_DIR}/tools/fetch_metal_cpp.sh ${PROJECT_BINARY_DIR}/metal-cpp
      RESULT_VARIABLE failed OUTPUT_VARIABLE folder ERROR_VARIABLE text OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(failed)
      message(FATAL_ERROR "metal-cpp cannot be fetched (${failed}): ${text}\n"
        "METAL_MARLIN_METAL_CPP can name a folder that holds Apple's metal-cpp instead.")
    endif()
  endif()
  if(NOT EXISTS ${folder}/Metal/Metal.hpp)
    message(FATAL_ERROR "METAL_MARLIN_METAL_CPP: no Metal/Metal.hpp in ${folder}")
  endif()
  set(${out} ${folder} PARENT_SCOPE)
endfunction()

function(metal_marlin_add_metal_device)
  metal_marlin_find_metal_cpp(metal_cpp)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/backends/msl/metal/*.cpp)
  target_sources(metal_marlin PRIVATE ${sources})
  target_include_directories(metal_marlin SYSTEM PRIVATE ${metal_cpp})
  target_compile_definitions(metal_marlin PUBLIC METAL_MARLIN_METAL=1)
  # CoreGraphics: programs without a window get no default device otherwise. IOKit: what the GPU is.
  target_link_libraries(metal_marlin PRIVATE "-framework Foundation" "-framework Metal" "-framework CoreGraphics"
    "-framework CoreFoundation" "-framework IOKit")
  find_package(MetalCompiler)
  if(NOT MetalCompiler_FOUND)
    message(WARNING "no Metal compiler that works: there will be no metallib, and shaders are compiled at run time")
    return()
  endif()
  set(library ${PROJECT_BINARY_DIR}/bin/metal_marlin.metallib)
  file(GLOB shaders CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/shaders/*.metal ${PROJECT_SOURCE_DIR}/shaders/common/*.h)
  add_custom_command(OUTPUT ${library} DEPENDS ${shaders} ${PROJECT_SOURCE_DIR}/tools/build_metallib.sh
    COMMENT "Shaders into a metallib" COMMAND ${PROJECT_SOURCE_DIR}/tools/build_metallib.sh ${PROJECT_BINARY_DIR}/bin)
  add_custom_target(metallib ALL DEPENDS ${library})
  install(FILES ${library} DESTINATION ${CMAKE_INSTALL_DATADIR}/metal-marlin)
endfunction()
