# The four ways a target is declared. Lists of files are always explicit.

# With TANDEM_KERNELS_ONLY most packages are not looked for, and a target with a dependency that is not there is left
# out. In a whole build such a dependency is an error.
function(tandem_is_left_out result)
  set(missing OFF)
  if(TANDEM_KERNELS_ONLY)
    foreach(dependency IN LISTS ARGN)
      if(NOT TARGET ${dependency})
        set(missing ON)
      endif()
    endforeach()
  endif()
  set(${result} ${missing} PARENT_SCOPE)
endfunction()

# tandem_library(name SRCS a.cc ... HDRS a.h ... DEPS x y)
function(tandem_library name)
  cmake_parse_arguments(A "" "" "SRCS;HDRS;DEPS" ${ARGN})
  tandem_is_left_out(left_out ${A_DEPS})
  if(left_out)
    return()
  endif()
  if(A_SRCS)
    add_library(${name} STATIC ${A_SRCS} ${A_HDRS})
    target_link_libraries(${name} PUBLIC ${A_DEPS})
    target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  else()
    add_library(${name} INTERFACE)
    target_sources(${name} INTERFACE FILE_SET HEADERS BASE_DIRS ${CMAKE_SOURCE_DIR} FILES ${A_HDRS})
    target_link_libraries(${name} INTERFACE ${A_DEPS})
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR})
  endif()
endfunction()

# Debian's absl::Mutex is invisible to ThreadSanitizer; this makes it visible in every executable.
function(tandem_see_mutexes name)
  if(SANITIZE MATCHES "thread")
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/tsan/absl_sync.cc)
  endif()
endfunction()

# tandem_program(name SRCS main.cc DEPS x): an executable under <build>/bin; `programs` builds all that users run.
add_custom_target(programs)
function(tandem_program name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  tandem_is_left_out(left_out ${A_DEPS})
  if(left_out)
    return()
  endif()
  add_executable(${name} ${A_SRCS})
  tandem_see_mutexes(${name})
  target_link_libraries(${name} PRIVATE ${A_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  # What a cluster is run with; benchmarks and tests take longer to build than all of it.
  file(RELATIVE_PATH folder ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  if(NOT folder MATCHES "^(bench|tests)")
    add_dependencies(programs ${name})
  endif()
endfunction()

# tandem_register(name labels timeout command...): one ctest entry. It runs in the source root; TANDEM_SOURCE_DIR and
# TANDEM_BINARY_DIR tell it where things are; exit 0 passes, 77 skips. timeout: seconds, 300 when empty.
function(tandem_register name labels timeout)
  if(NOT timeout)
    set(timeout 300)
  endif()
  add_test(NAME ${name} COMMAND ${ARGN} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT ${timeout} SKIP_RETURN_CODE 77
    ENVIRONMENT "TANDEM_SOURCE_DIR=${CMAKE_SOURCE_DIR};TANDEM_BINARY_DIR=${CMAKE_BINARY_DIR}")
endfunction()

# tandem_test_program(name SRCS x_test.cc DEPS x): a GoogleTest binary. DEPS or SRCS bring main().
function(tandem_test_program name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  tandem_see_mutexes(${name})
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gtest GTest::gmock)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
endfunction()

# tandem_test(name SRCS x_test.cc DEPS x LABELS unit [TIMEOUT 120]): a GoogleTest binary, one ctest entry.
function(tandem_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  tandem_is_left_out(left_out ${A_DEPS})
  if(left_out)
    return()
  endif()
  tandem_test_program(${name} SRCS ${A_SRCS} DEPS ${A_DEPS} GTest::gtest_main)
  tandem_register(${name} "${A_LABELS}" "${A_TIMEOUT}" ${name})
endfunction()

# tandem_py_test(name SCRIPT x.py [ARGS ...] LABELS tidy [TIMEOUT 120]): exit 0 passes, 77 skips.
function(tandem_py_test name)
  cmake_parse_arguments(A "" "SCRIPT;TIMEOUT" "ARGS;LABELS" ${ARGN})
  tandem_register(${name} "${A_LABELS}" "${A_TIMEOUT}" ${Python3_EXECUTABLE} ${A_SCRIPT} ${A_ARGS})
endfunction()

# tandem_fuzzer(name SRCS x_fuzz.cc DEPS x CORPUS dir): a libFuzzer binary when TANDEM_FUZZERS is on (clang), and in
# every build a plain replay of the committed corpus, so that old findings stay fixed under any compiler.
function(tandem_fuzzer name)
  cmake_parse_arguments(A "" "CORPUS;MAX_LEN" "SRCS;DEPS" ${ARGN})
  if(NOT A_MAX_LEN)
    set(A_MAX_LEN 65536)
  endif()
  if(TANDEM_FUZZERS)
    add_executable(${name} ${A_SRCS})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    # A scratch directory first: libFuzzer writes what it finds there, never into the source tree.
    set(scratch ${CMAKE_BINARY_DIR}/fuzz/${name})
    file(MAKE_DIRECTORY ${scratch})
    add_test(NAME ${name} COMMAND ${name} -max_total_time=10 -timeout=10 -rss_limit_mb=2048
      -max_len=${A_MAX_LEN} -artifact_prefix=${scratch}/ ${scratch} ${A_CORPUS})
  else()
    add_executable(${name} ${A_SRCS} ${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.cc)
    add_test(NAME ${name} COMMAND ${name} ${A_CORPUS})
  endif()
  target_link_libraries(${name} PRIVATE ${A_DEPS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
