# Tells whether Apple's shader compiler works here. `xcrun --find metal` names one that does not run: since Xcode 26 it
# stands for a toolchain that is fetched apart. So a kernel is compiled and put into a library.
set(MetalCompiler_probe ${CMAKE_CURRENT_BINARY_DIR}/CMakeFiles/metal_probe)
file(WRITE ${MetalCompiler_probe}.metal "kernel void probe(device float* x [[buffer(0)]]) { x[0] = 1; }\n")
execute_process(
  COMMAND xcrun -sdk macosx metal -std=metal3.1 -c ${MetalCompiler_probe}.metal -o ${MetalCompiler_probe}.air
  RESULT_VARIABLE MetalCompiler_result OUTPUT_VARIABLE MetalCompiler_text ERROR_VARIABLE MetalCompiler_text)
if(MetalCompiler_result EQUAL 0)
  execute_process(COMMAND xcrun -sdk macosx metallib ${MetalCompiler_probe}.air -o ${MetalCompiler_probe}.metallib
    RESULT_VARIABLE MetalCompiler_result OUTPUT_VARIABLE MetalCompiler_text ERROR_VARIABLE MetalCompiler_text)
endif()
set(MetalCompiler_works FALSE)
if(MetalCompiler_result EQUAL 0)
  set(MetalCompiler_works TRUE)
endif()
string(STRIP "${MetalCompiler_text}" MetalCompiler_text)
string(REPLACE ";" "," MetalCompiler_text "${MetalCompiler_text}")
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(MetalCompiler REQUIRED_VARS MetalCompiler_works REASON_FAILURE_MESSAGE
  "xcrun metal: ${MetalCompiler_result} ${MetalCompiler_text} (Xcode 26 and later fetch it by: xcodebuild -downloadComponent MetalToolchain)")
