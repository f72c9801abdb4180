# Defines OpenBLAS::OpenBLAS: BLAS with its C interface, and LAPACK.
find_path(OPENBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES openblas PATHS /opt/homebrew/opt/openblas/include)
find_library(OPENBLAS_LIBRARY openblas PATHS /opt/homebrew/opt/openblas/lib)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OpenBLAS REQUIRED_VARS OPENBLAS_LIBRARY OPENBLAS_INCLUDE_DIR)
if(OpenBLAS_FOUND AND NOT TARGET OpenBLAS::OpenBLAS)
  add_library(OpenBLAS::OpenBLAS UNKNOWN IMPORTED)
  set_target_properties(OpenBLAS::OpenBLAS PROPERTIES IMPORTED_LOCATION ${OPENBLAS_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${OPENBLAS_INCLUDE_DIR})
endif()
