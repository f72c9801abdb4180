# Defines protobuf::libprotobuf-lite. From release 22 on it needs abseil, of which only its own config knows; Debian's
# older package has no config.
find_package(Protobuf CONFIG QUIET)
set(ProtobufLite_usable ${Protobuf_FOUND})
if(NOT Protobuf_FOUND)
  find_package(Protobuf MODULE QUIET)
  if(Protobuf_FOUND AND Protobuf_VERSION VERSION_LESS 4.22)  # 22's number in its headers
    set(ProtobufLite_usable TRUE)
  endif()
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ProtobufLite REQUIRED_VARS ProtobufLite_usable VERSION_VAR Protobuf_VERSION
  REASON_FAILURE_MESSAGE "Protobuf ${Protobuf_VERSION}: releases from 22 on are found by their CMake config, which needs abseil's (CMAKE_PREFIX_PATH leads to both)")
