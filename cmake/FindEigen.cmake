# Defines Eigen3::Eigen. Eigen's own config takes 3.4 and 5, which are alike to us, for incompatible.
find_package(Eigen3 CONFIG QUIET)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Eigen REQUIRED_VARS Eigen3_DIR VERSION_VAR Eigen3_VERSION)
