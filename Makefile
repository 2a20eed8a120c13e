# Perigee's build. `make` builds, `make test` tests, `make demo` runs the main experiment.
# CC=clang BUILD=build-clang compiles with clang; PORTABLE=1 builds for any processor with AVX2 (x86-64-v3), in
# build-portable; SAN=1 builds with the address and undefined-behaviour sanitizers, in build-san.
ifeq ($(origin CC),default)
CC = gcc
endif
# ARCH: for this processor, or for which others. Code that is generated later is compiled for the same.
ifeq ($(PORTABLE),1)
ARCH ?= -march=x86-64-v3
BUILD ?= build-portable
endif
ARCH ?= -march=native
ifeq ($(SAN),1)
BUILD ?= build-san
# Instrumented code makes gcc warn of what is not there: under SAN=1 a warning is no error.
SAN_FLAGS = -fsanitize=address,undefined -fno-omit-frame-pointer -Wno-error
endif
BUILD ?= build
WARN = -Wall -Wextra -Werror
NUMERICS = -ffp-contract=off -fno-math-errno -fno-trapping-math
CFLAGS ?= -O3 -g
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(ARCH) $(NUMERICS) $(WARN) -fPIC -fopenmp -fvisibility=hidden -I. -I$(BUILD) $(SAN_FLAGS)
LUA_CFLAGS = $(shell pkg-config --cflags lua5.4)
LUA_LIBS = $(shell pkg-config --libs lua5.4)

# OpenBLAS by path: all flavours share a name, and the pthread one next to OpenMP would be two thread pools on one machine.
MULTIARCH := $(shell gcc -print-multiarch 2>/dev/null)
BLAS_DIR ?= /usr/lib/$(MULTIARCH)/openblas-openmp
LIBS = $(BLAS_DIR)/libopenblas.so.0 -Wl,-rpath,$(BLAS_DIR) -lz -llzma -ljansson -lm -ldl

ENGINE_SRC := $(wildcard engine/*/*.c)
ENGINE_OBJ := $(ENGINE_SRC:%.c=$(BUILD)/%.o)
# The line editor (libedit) belongs to the program alone.
MAIN_SRC := bindings/main.c bindings/editor.c
MODULE_SRC := $(filter-out $(MAIN_SRC),$(wildcard bindings/*.c))
MODULE_OBJ := $(MODULE_SRC:%.c=$(BUILD)/%.o) $(BUILD)/bindings/scripts.o
MAIN_OBJ := $(MAIN_SRC:%.c=$(BUILD)/%.o)
SCRIPTS := $(wildcard scripts/perigee/*.lua)

all: $(BUILD)/perigee $(BUILD)/perigee.so

$(BUILD)/perigee: $(ENGINE_OBJ) $(MODULE_OBJ) $(MAIN_OBJ)
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LUA_LIBS) -ledit $(LIBS)

# nodelete: the stock interpreter unloads modules when it ends, and OpenMP's threads would wake up in code that is gone.
$(BUILD)/perigee.so: $(ENGINE_OBJ) $(MODULE_OBJ)
	$(CC) $(ALL_CFLAGS) -shared -Wl,-z,nodelete -o $@ $^ $(LIBS)

# The list of scripts is a file of its own, rewritten only when it changes: adding or removing one rebuilds the table.
$(BUILD)/bindings/scripts.list: FORCE
	@mkdir -p $(@D)
	@echo $(SCRIPTS) | cmp -s - $@ || echo $(SCRIPTS) > $@

# The doc comments of scripts and bindings as a table, for `?name` and help; as docs/reference.md for people (make reference).
$(BUILD)/reference_data.lua: tools/reference.lua $(SCRIPTS) $(wildcard bindings/*.c) $(BUILD)/bindings/scripts.list
	lua5.4 tools/reference.lua module > $@.new
	@mv $@.new $@

reference:
	lua5.4 tools/reference.lua manual > docs/reference.md.new
	@mv docs/reference.md.new docs/reference.md

EMBEDDED_SCRIPTS := $(SCRIPTS) $(BUILD)/reference_data.lua
$(BUILD)/bindings/scripts.c: $(EMBEDDED_SCRIPTS) tools/embed.lua $(BUILD)/bindings/scripts.list
	lua5.4 tools/embed.lua $(EMBEDDED_SCRIPTS) > $@.new
	@mv $@.new $@

$(BUILD)/bindings/scripts.o: $(BUILD)/bindings/scripts.c
	$(CC) $(ALL_CFLAGS) -c $< -o $@

$(BUILD)/bindings/%.o: bindings/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LUA_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

# The scalar functions as text, which the generator prints in front of generated code.
EMBEDDED := engine/codegen/kernel_abi.h engine/core/vmath.h engine/core/scalar.h engine/codegen/lanes.h
$(BUILD)/embedded_numerics.h: engine/codegen/embed.sh $(EMBEDDED)
	@mkdir -p $(@D)
	sh $^ > $@.new
	@mv $@.new $@
$(BUILD)/engine/codegen/generate.o: $(BUILD)/embedded_numerics.h
$(BUILD)/engine/codegen/compiler.o: ALL_CFLAGS += -DPG_ARCH='"$(ARCH)"'

# The engine for programs in C: link it with $(LIBS). (q: files of different directories may share a name.)
$(BUILD)/libperigee.a: $(ENGINE_OBJ)
	rm -f $@
	ar qcs $@ $^

# ---- tests: programs in tests/c (each links the engine), specs in tests/lua, scripts in tests/cli; tests/run.lua runs them

C_TESTS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/c/test_*.c) tests/c/example.c)
$(BUILD)/tests/c/%: tests/c/%.c $(BUILD)/libperigee.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(TEST_LDFLAGS) $(BUILD)/libperigee.a $(LIBS)

# test_oom makes the engine's allocations fail, and no others.
WRAPPED := malloc calloc realloc aligned_alloc strdup free
$(BUILD)/tests/c/test_oom: TEST_LDFLAGS = $(WRAPPED:%=-Wl,--wrap=%)

# Under sanitizers the specs run in a Lua that has them from the start.
ifeq ($(SAN),1)
C_TESTS += $(BUILD)/tests/c/lua_host
$(BUILD)/tests/c/lua_host: TEST_LDFLAGS = $(LUA_CFLAGS) $(LUA_LIBS)
endif

JOBS ?= $(shell nproc)
SUBMAKE = $(MAKE) --no-print-directory

# Preloaded by a test, so built without sanitizers.
$(BUILD)/tests/count_malloc.so: tests/c/count_malloc.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O1 $(WARN) $(LUA_CFLAGS) -shared -fPIC $< -o $@

# A terminal with somebody at it, for specs of what is interactive.
$(BUILD)/tests/pty_run: tests/c/pty_run.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O1 $(WARN) -o $@ $<

c-tests: $(C_TESTS) $(BUILD)/tests/count_malloc.so $(BUILD)/tests/pty_run

test:
	@tools/timed.sh install tools/install-deps.sh build test
	@echo building
	@tools/timed.sh build $(SUBMAKE) -s -j$(JOBS) all c-tests
	@lua5.4 tests/run.lua $(BUILD) $(TESTS:%='%')

test-long:
	@PERIGEE_TEST_LONG=1 $(SUBMAKE) test

# ---- what else a person types

demo:
	@tools/timed.sh install tools/install-deps.sh build demo
	@echo building
	@tools/timed.sh build $(SUBMAKE) -s -j$(JOBS) all
	@tools/timed.sh training $(BUILD)/perigee recipes/fashion_lenet.lua

# Yardsticks; the one of arithmetic is meant to contract.
$(BUILD)/bench/%: tests/bench/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $<
$(BUILD)/bench/fma: NUMERICS += -ffp-contract=fast

bench: all $(BUILD)/bench/rmw $(BUILD)/bench/fma
	@PERIGEE_BENCH=$(BUILD)/bench $(BUILD)/perigee bench $(NAME)

C_FILES = $(shell find engine bindings tests -name '*.[ch]' | LC_ALL=C sort)
LUA_DIRS = $(wildcard scripts recipes tests tools)

format-check:
	@clang-format --dry-run -Werror $(C_FILES)

lint:
	@tools/install-deps.sh build lint
	@status=0; luacheck --quiet --no-color $(LUA_DIRS) || status=1; lua5.4 tools/check-layers.lua || status=1; \
	  $(SUBMAKE) format-check || status=1; exit $$status

PREFIX ?= /usr/local
install: all $(BUILD)/libperigee.a
	install -D -m 755 $(BUILD)/perigee $(DESTDIR)$(PREFIX)/bin/perigee
	install -D -m 755 $(BUILD)/perigee.so $(DESTDIR)$(PREFIX)/lib/lua/5.4/perigee.so
	install -D -m 644 $(BUILD)/libperigee.a $(DESTDIR)$(PREFIX)/lib/libperigee.a
	install -D -m 644 engine/perigee.h $(DESTDIR)$(PREFIX)/include/perigee.h
	install -d $(DESTDIR)$(PREFIX)/share/perigee/recipes
	install -m 644 $(wildcard recipes/*.lua) $(DESTDIR)$(PREFIX)/share/perigee/recipes
	install -d $(DESTDIR)$(PREFIX)/share/perigee/recipes/parts
	install -m 644 $(wildcard recipes/parts/*.lua) $(DESTDIR)$(PREFIX)/share/perigee/recipes/parts

clean:
	rm -rf $(BUILD)

-include $(ENGINE_OBJ:.o=.d) $(MODULE_OBJ:.o=.d) $(MAIN_OBJ:.o=.d) $(C_TESTS:=.d)
.PHONY: all clean FORCE reference c-tests test test-long demo bench format-check lint install
