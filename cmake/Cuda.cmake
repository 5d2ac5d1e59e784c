# The CUDA backend: libzoetrope-cuda.so, which nothing links to. It carries its own copy of the base it needs.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 100a-real 120a-real)
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.8 REQUIRED)
find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)

file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/cuda/*.c ${CMAKE_SOURCE_DIR}/src/backend/cuda/*.cu)
add_library(zoetrope-cuda MODULE ${cuda_sources} src/backend/backend.c src/backend/pool.c src/backend/profile.c src/backend/quantised.c src/base/context.c src/base/tensor.c)
set_target_properties(zoetrope-cuda PROPERTIES
  CUDA_STANDARD 17 CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
target_include_directories(zoetrope-cuda PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/include ${CUDNN_INCLUDE_DIR})
target_compile_options(zoetrope-cuda PRIVATE $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wshadow -Wmissing-prototypes -Werror=vla $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation>>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
target_compile_definitions(zoetrope-cuda PRIVATE _GNU_SOURCE)
target_link_libraries(zoetrope-cuda PRIVATE CUDA::cublasLt CUDA::cuda_driver ${CUDNN_LIBRARY} OpenMP::OpenMP_C m)
# Only the entry, and none of the base functions that the program has as well.
target_link_options(zoetrope-cuda PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/plugin.map)
install(TARGETS zoetrope-cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/zoetrope)
