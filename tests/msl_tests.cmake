# Tests of what runs or reads shaders, of the MSL toolchain and of lowered metallibs: included by CMakeLists.txt here.

# Where there is no Metal its device runs over a stand-in that holds it to Metal's rules.
set(recorded_metal ${shader_tests})
list(FILTER recorded_metal INCLUDE REGEX "/metal_stub/|/msl/metal/(metal_device|rules)_test")
list(REMOVE_ITEM shader_tests ${recorded_metal})
metal_marlin_unite(metal_marlin_tests ${shader_tests})
if(NOT APPLE)
  function(metal_marlin_add_recorded name)
    add_library(${name} OBJECT ${ARGN})
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tools/msl/include
      ${PROJECT_SOURCE_DIR}/shaders ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/backends/msl/metal_stub
      ${CMAKE_CURRENT_SOURCE_DIR}/backends/msl/sdk_stub)
    target_compile_definitions(${name} PRIVATE $<TARGET_PROPERTY:metal_marlin_tests,COMPILE_DEFINITIONS>)
    target_link_libraries(${name} PRIVATE metal_marlin metal_marlin_flags fmt::fmt nlohmann_json::nlohmann_json GTest::gtest)
    metal_marlin_set_unhurried(${name})
    target_sources(metal_marlin_tests PRIVATE $<TARGET_OBJECTS:${name}>)
  endfunction()
  file(GLOB metal_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/backends/msl/metal/*.cpp)
  list(FILTER metal_sources EXCLUDE REGEX "/metal_cpp.cpp")
  metal_marlin_add_recorded(metal_marlin_recorded_metal ${metal_sources})
  if(NOT METAL_MARLIN_TEST_OBJECTS)
    metal_marlin_add_recorded(metal_marlin_metal_stub ${recorded_metal})
  endif()
  target_compile_definitions(metal_marlin_tests PRIVATE METAL_MARLIN_RECORDED_METAL=1)
endif()
if(NOT METAL_MARLIN_TEST_OBJECTS)
  target_sources(metal_marlin_tests PRIVATE ${shader_tests})
endif()
target_include_directories(metal_marlin_tests PRIVATE ${PROJECT_SOURCE_DIR}/tools/msl/include ${PROJECT_SOURCE_DIR}/shaders)
set_target_properties(metal_marlin_tests PROPERTIES ENABLE_EXPORTS ON)  # kernels that METAL_MARLIN_METALLIB names call the executor

# Kernels that the host executor's detectors must catch, and twins that they must not.
set(detectors ${CMAKE_CURRENT_SOURCE_DIR}/backends/msl/detectors.metal)
set(detector_objects ${CMAKE_CURRENT_BINARY_DIR}/detectors.o ${CMAKE_CURRENT_BINARY_DIR}/detectors.debug.o)
add_custom_command(OUTPUT ${detector_objects} DEPENDS ${detectors} ${METAL_MARLIN_MSL_TOOL}
  COMMAND ${METAL_MARLIN_RUN_MSLC} object ${detectors} -o ${CMAKE_CURRENT_BINARY_DIR}/detectors.o --symbol msl_library_detectors
    --isolate --arch ${METAL_MARLIN_SHADER_ARCH}
  COMMAND ${METAL_MARLIN_RUN_MSLC} object ${detectors} -o ${CMAKE_CURRENT_BINARY_DIR}/detectors.debug.o
    --symbol msl_debug_library_detectors --isolate --instrument --arch ${METAL_MARLIN_SHADER_ARCH})
set_source_files_properties(${detector_objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
target_sources(metal_marlin_tests PRIVATE ${detector_objects})

# The MSL toolchain's own tests.
add_test(NAME msl_toolchain COMMAND ${CMAKE_COMMAND} -E env METAL_MARLIN_CLANG=${METAL_MARLIN_CLANG}
  ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/tools/msl_test.py)
# Our shaders as Apple's compiler would have them (docs/msl.md).
add_test(NAME strict COMMAND ${METAL_MARLIN_RUN_MSLC} strict ${PROJECT_SOURCE_DIR}/shaders --own)
set_tests_properties(strict PROPERTIES COST 60)
if(NOT METAL_MARLIN_CUDA)  # where they are compiled to PTX there is no doubt
  add_test(NAME ptx_syntax COMMAND ${METAL_MARLIN_RUN_MSLC} syntax ${PROJECT_SOURCE_DIR}/shaders)
  set_tests_properties(ptx_syntax PROPERTIES COST 30)
endif()
add_test(NAME differential COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/tools/differential_test.py)

# What Apple's compiler writes, lowered and run.
if(METAL_MARLIN_AIR)
  add_test(NAME air COMMAND ${CMAKE_COMMAND} -E env METAL_MARLIN_CLANG=${METAL_MARLIN_CLANG} ${Python3_EXECUTABLE}
    ${CMAKE_CURRENT_SOURCE_DIR}/tools/air_test.py $<TARGET_FILE:metal-marlin> $<TARGET_FILE:metal-marlin-air>)
  set_tests_properties(air PROPERTIES COST 20)
  add_test(NAME air_math COMMAND ${CMAKE_COMMAND} -E env METAL_MARLIN_CLANG=${METAL_MARLIN_CLANG} ${Python3_EXECUTABLE}
    ${CMAKE_CURRENT_SOURCE_DIR}/tools/air_math_test.py)
endif()

# Shaders that went through a metallib: kernels of the test's own, every shader once, models with quantized and dense
# weights, with experts and latent attention. A kernel that these need and metallib_kernels.txt lacks is named.
if(METAL_MARLIN_AIR)
  set(air_environment ${CMAKE_COMMAND} -E env METAL_MARLIN_CLANG=${METAL_MARLIN_CLANG}
    METAL_MARLIN_AIR=$<TARGET_FILE:metal-marlin-air> XDG_CACHE_HOME=${CMAKE_CURRENT_BINARY_DIR}/cache)
  add_test(NAME metallib_tool COMMAND ${air_environment} ${Python3_EXECUTABLE}
    ${CMAKE_CURRENT_SOURCE_DIR}/tools/metallib_test.py $<TARGET_FILE:metal-marlin>)
  set(shaders_metallib ${CMAKE_CURRENT_BINARY_DIR}/shaders.metallib)
  set(chosen_kernels ${CMAKE_CURRENT_SOURCE_DIR}/metallib_kernels.txt)
  file(GLOB shader_texts CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/shaders/*.metal)
  file(GLOB shader_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/shaders/common/*.h)
  add_custom_command(OUTPUT ${shaders_metallib} COMMENT "Shaders into a metallib"
    DEPENDS ${shader_texts} ${shader_headers} ${METAL_MARLIN_MSL_TOOL} ${chosen_kernels} metal-marlin-air
    COMMAND ${air_environment} ${Python3_EXECUTABLE} ${METAL_MARLIN_MSLC} metallib ${shader_texts} -o ${shaders_metallib}
      --kernels ${chosen_kernels})
  add_custom_target(shaders_metallib ALL DEPENDS ${shaders_metallib})
  add_test(NAME metallib COMMAND ${air_environment} ${PROJECT_SOURCE_DIR}/tools/run_metallib_tests.sh ${PROJECT_BINARY_DIR}
    ${shaders_metallib} *LogitsMatch*/qwen3_tiny_msl_host:*LogitsMatch*/glm4_moe_lite_tiny_msl_host:QuantizeMethods.NamedRecipesByGptq)
  set_tests_properties(metallib PROPERTIES COST 30)
endif()
