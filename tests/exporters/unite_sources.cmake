# Compiles llama.cpp's many small files in a few heaps, which halves the time; two names clash, those stay alone.
function(unite)
  set_target_properties(llama llama-common PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/models/gemma4.cpp
    TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/common/json.cpp ${CMAKE_SOURCE_DIR}/common/chat.cpp
    TARGET_DIRECTORY llama-common PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()
cmake_language(DEFER CALL unite)
