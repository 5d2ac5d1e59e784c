# Short commands around CMake. The packages that a Debian or Ubuntu lacks are installed first, after a question.

PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: all demo check install clean

all:
	@scripts/packages build
	@scripts/build

# A first video.
demo:
	@scripts/packages build
	@scripts/build zoe
	@scripts/demo

# Everything that has to hold before a change goes in.
check:
	@scripts/packages build check
	@scripts/check

install: all
	@DESTDIR=$(DESTDIR) cmake --install build/release --prefix $(PREFIX)

clean:
	@rm -rf build/release build/check build/asan build/fuzz
