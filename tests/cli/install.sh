#!/usr/bin/env bash
# What `make install` puts in place works from there: program, man page, completion, pkg-config, CMake package.
# usage: install.sh ZOE SOURCE_DIR BUILD_DIR CMAKE
. "$(dirname "$0")/lib.sh"
build=$3
cmake=$4
prefix=$work/prefix

"$cmake" --install "$build" --prefix "$prefix" >log 2>&1 || fail "install: $(tail -n 3 log)"
for file in bin/zoe include/zoetrope.h share/man/man1/zoe.1 share/bash-completion/completions/zoe \
    share/zsh/site-functions/_zoe share/fish/vendor_completions.d/zoe.fish; do
    [ -s "$prefix/$file" ] || fail "no $file"
done
libraries=$(dirname "$(find "$prefix" -name libzoetrope.so)")
[ -s "$libraries/libzoetrope.a" ] || fail "no static library"
[ "$("$prefix/bin/zoe" --version)" = "$("$zoe" --version)" ] || fail "the installed program is another one"

export PKG_CONFIG_PATH=$libraries/pkgconfig LD_LIBRARY_PATH=$libraries
example=$source_dir/examples/text_to_video.c
flags=$(sed -n 's/^CMAKE_C_FLAGS:[A-Z]*=//p' "$build/CMakeCache.txt") # sanitizers want to be linked throughout
cc $flags "$example" -o shared $(pkg-config --cflags --libs zoetrope) 2>log || fail "pkg-config: $(cat log)"
cc $flags "$example" -o static $(pkg-config --cflags zoetrope) "$libraries/libzoetrope.a" \
    $(pkg-config --static --libs-only-other --libs-only-L --libs-only-l zoetrope | sed 's/-lzoetrope//') 2>log ||
    fail "pkg-config --static: $(cat log)"
for program in ./shared ./static; do
    $program nothing a x.mp4 2>err && fail "$program succeeds without a model"
    grep -q 'nothing: no such folder' err || fail "$program: $(cat err)"
done

mkdir user && cat >user/CMakeLists.txt <<EOF
cmake_minimum_required(VERSION 3.22)
project(user C CXX)
find_package(zoetrope REQUIRED)
add_executable(user_shared $example)
target_link_libraries(user_shared zoetrope::zoetrope)
add_executable(user_static $example)
target_link_libraries(user_static zoetrope::zoetrope_static)
EOF
"$cmake" -S user -B user/build -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" >log 2>&1 &&
    "$cmake" --build user/build >>log 2>&1 || fail "find_package: $(tail -n 5 log)"
user/build/user_static nothing a x.mp4 2>err
grep -q 'nothing: no such folder' err || fail "user_static: $(cat err)"
finish
