# Kernels for GPUs, each built twice: by nvcc where CUDA is (tandem_cuda_*), and by the host compiler against the
# emulator for tests on the CPU (tandem_emulated_*). A .cu file reaches the host compiler through a generated .cc that
# includes it.

# tandem_device_library(name SRCS a.cu b.cc HDRS ... DEPS x ... DEVICE_DEPS y): tandem_emulated_<name>, and with CUDA
# tandem_cuda_<name>. DEVICE_DEPS name other device libraries, without their prefix.
function(tandem_device_library name)
  cmake_parse_arguments(A "" "" "SRCS;HDRS;DEPS;DEVICE_DEPS;CUDA_SRCS;EMULATED_SRCS;CUDA_DEPS" ${ARGN})
  tandem_is_left_out(left_out ${A_DEPS})
  if(left_out)
    return()
  endif()
  set(emulated ${A_EMULATED_SRCS})
  foreach(source IN LISTS A_SRCS)
    if(source MATCHES "\\.cu$")
      cmake_path(ABSOLUTE_PATH source OUTPUT_VARIABLE path)
      set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/emulated/${source}.cc)
      file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${path}\"\n" @ONLY)
      list(APPEND emulated ${wrapper})
    else()
      list(APPEND emulated ${source})
    endif()
  endforeach()
  tandem_device_variant(tandem_emulated_${name} tandem_emulated_ "${emulated}" "${A_HDRS}" "${A_DEPS}"
    "${A_DEVICE_DEPS}")
  if(TANDEM_HAS_CUDA)
    tandem_device_variant(tandem_cuda_${name} tandem_cuda_ "${A_SRCS};${A_CUDA_SRCS}" "${A_HDRS}"
      "${A_DEPS};${A_CUDA_DEPS}" "${A_DEVICE_DEPS}")
    target_link_libraries(tandem_cuda_${name} PUBLIC CUDA::cudart_static)
  endif()
endfunction()

function(tandem_device_variant target prefix sources headers deps device_deps)
  list(TRANSFORM device_deps PREPEND ${prefix})
  add_library(${target} STATIC ${sources} ${headers})
  target_link_libraries(${target} PUBLIC ${deps} ${device_deps})
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
  # Kernels say `#pragma unroll`, which is nvcc's.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-unknown-pragmas>)
endfunction()

# tandem_device_test(name SRCS x_test.cc DEPS x DEVICE_DEPS y LABELS unit [SEEDS 1 2]): emulated_<name>, and with CUDA
# cuda_<name>, which skips (77) where there is no GPU. The same source for both. SEEDS: further runs on the emulator, in
# other orders of threads and copies.
function(tandem_device_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SRCS;DEPS;DEVICE_DEPS;LABELS;SEEDS" ${ARGN})
  set(emulated ${A_DEVICE_DEPS})
  list(TRANSFORM emulated PREPEND tandem_emulated_)
  tandem_is_left_out(left_out ${A_DEPS} ${emulated})
  if(left_out)
    return()
  endif()
  tandem_test(emulated_${name} SRCS ${A_SRCS} DEPS ${A_DEPS} ${emulated} tandem_emulated_device
    LABELS ${A_LABELS} TIMEOUT ${A_TIMEOUT})
  foreach(seed IN LISTS A_SEEDS)
    set(test emulated_${name}_seed${seed})
    tandem_register(${test} "${A_LABELS}" "${A_TIMEOUT}" emulated_${name})
    set_property(TEST ${test} APPEND PROPERTY ENVIRONMENT "TANDEM_EMULATOR_SEED=${seed}")
  endforeach()
  if(TANDEM_HAS_CUDA)
    set(real ${A_DEVICE_DEPS})
    list(TRANSFORM real PREPEND tandem_cuda_)
    tandem_test_program(cuda_${name}
      SRCS ${A_SRCS} ${CMAKE_SOURCE_DIR}/gpu_worker/backend/cuda/device/gpu_test_main.cc
      DEPS ${A_DEPS} ${real} tandem_cuda_device)
    tandem_register(cuda_${name} gpu "${A_TIMEOUT}" cuda_${name})
  endif()
endfunction()
