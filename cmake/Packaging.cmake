# What `cmake --install` puts where: program, libraries, header, pkg-config and CMake packages, man page, shell completion,
# the demo model.
include(CMakePackageConfigHelpers)

set(documents ${CMAKE_BINARY_DIR}/documents)
file(MAKE_DIRECTORY ${documents})
function(zoe_document file)
  add_custom_command(OUTPUT ${documents}/${file} COMMAND zoe help ${ARGN} > ${documents}/${file} DEPENDS zoe VERBATIM)
  set_property(DIRECTORY APPEND PROPERTY ZOE_DOCUMENTS ${documents}/${file})
endfunction()
zoe_document(zoe.1 --man)
zoe_document(zoe.bash --completion bash)
zoe_document(_zoe --completion zsh)
zoe_document(zoe.fish --completion fish)
get_property(document_files DIRECTORY PROPERTY ZOE_DOCUMENTS)
add_custom_target(documents ALL DEPENDS ${document_files})

# For pkg-config --static, which would demand the static forms of all dependencies if they were named as requirements.
set(ZOE_PC_LIBS ${JANSSON_LDFLAGS} ${SENTENCEPIECE_LDFLAGS} ${UTF8PROC_LDFLAGS} ${OPENBLAS_LDFLAGS} ${FFMPEG_LDFLAGS})
list(JOIN ZOE_PC_LIBS " " ZOE_PC_LIBS)
file(RELATIVE_PATH ZOE_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /) # so that the folder can be installed anywhere
configure_file(cmake/zoetrope.pc.in zoetrope.pc @ONLY)
configure_package_config_file(cmake/zoetropeConfig.cmake.in zoetropeConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/zoetrope)
write_basic_package_version_file(zoetropeConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS zoe)
install(TARGETS zoetrope zoetrope_static EXPORT zoetrope)
install(EXPORT zoetrope NAMESPACE zoetrope:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/zoetrope FILE zoetropeTargets.cmake)
install(FILES ${CMAKE_BINARY_DIR}/zoetropeConfig.cmake ${CMAKE_BINARY_DIR}/zoetropeConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/zoetrope)
install(FILES include/zoetrope.h TYPE INCLUDE)
install(FILES ${CMAKE_BINARY_DIR}/zoetrope.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${documents}/zoe.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${documents}/zoe.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME zoe)
install(FILES ${documents}/_zoe DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${documents}/zoe.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
install(FILES LICENSE README.md TYPE DOC)
if(EXISTS ${CMAKE_SOURCE_DIR}/models/demo/model_index.json)
  install(DIRECTORY models/demo DESTINATION ${CMAKE_INSTALL_DATADIR}/zoetrope/models)
endif()
