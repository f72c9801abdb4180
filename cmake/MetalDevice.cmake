# macOS: the Metal device, Apple's metal-cpp for it, and every shader in one metallib beside the
# programs. Without Apple's shader compiler (Xcode's) shaders are compiled when they are needed.
include(FetchContent)
# Headers alone, of a package that carries them under a fixed hash.
FetchContent_Declare(metal_cpp
  URL https://files.pythonhosted.org/packages/77/24/7e5b7ed5d28abacab4577c7a8dd1fca6e9058504f5f95ae4333c09420e2e/mlx_metal-0.32.4-py3-none-macosx_14_0_arm64.whl
  URL_HASH SHA256=8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947
  DOWNLOAD_NAME metal_cpp.zip DOWNLOAD_EXTRACT_TIMESTAMP ON)
FetchContent_MakeAvailable(metal_cpp)

function(metal_marlin_add_metal_device)
  target_sources(metal_marlin PRIVATE ${CMAKE_SOURCE_DIR}/src/backends/msl/metal/metal_device.cpp
    ${CMAKE_SOURCE_DIR}/src/backends/msl/metal/metal_cpp.cpp)
  target_include_directories(metal_marlin SYSTEM PRIVATE ${metal_cpp_SOURCE_DIR}/mlx/include/metal_cpp)
  target_compile_definitions(metal_marlin PUBLIC METAL_MARLIN_METAL=1)
  target_link_libraries(metal_marlin PRIVATE "-framework Foundation" "-framework Metal")
  execute_process(COMMAND xcrun -sdk macosx --find metal RESULT_VARIABLE missing OUTPUT_QUIET ERROR_QUIET)
  if(missing)
    message(STATUS "no Metal compiler here: shaders will be compiled at run time")
    return()
  endif()
  set(library ${CMAKE_BINARY_DIR}/bin/metal_marlin.metallib)
  file(GLOB shaders CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/shaders/*.metal ${CMAKE_SOURCE_DIR}/shaders/common/*.h)
  add_custom_command(OUTPUT ${library} DEPENDS ${shaders} COMMENT "Shaders into a metallib"
    COMMAND ${CMAKE_SOURCE_DIR}/tools/build_metallib.sh ${CMAKE_BINARY_DIR}/bin)
  add_custom_target(metallib ALL DEPENDS ${library})
  install(FILES ${library} DESTINATION ${CMAKE_INSTALL_DATADIR}/metal-marlin)
endfunction()
