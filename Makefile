# Perigee's build. `make` builds, `make test` tests, `make demo` runs the main experiment.
# CC=clang compiles with clang; SAN=1 builds with the address and undefined-behaviour sanitizers, in build-san.
ifeq ($(origin CC),default)
CC = gcc
endif
ARCH ?= -march=native
ifeq ($(SAN),1)
BUILD ?= build-san
SAN_FLAGS = -fsanitize=address,undefined -fno-omit-frame-pointer
endif
BUILD ?= build
WARN = -Wall -Wextra -Werror
NUMERICS = -ffp-contract=off -fno-math-errno -fno-trapping-math
CFLAGS ?= -O3 -g
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(ARCH) $(NUMERICS) $(WARN) -fPIC -fopenmp -fvisibility=hidden -I. -I$(BUILD) $(SAN_FLAGS)
LUA_CFLAGS = $(shell pkg-config --cflags lua5.4)
LUA_LIBS = $(shell pkg-config --libs lua5.4)

# OpenBLAS by path: all flavours share a name, and the pthread one next to OpenMP would be two thread pools on one machine.
MULTIARCH := $(shell gcc -print-multiarch)
BLAS_DIR ?= /usr/lib/$(MULTIARCH)/openblas-openmp
LIBS = $(BLAS_DIR)/libopenblas.so.0 -Wl,-rpath,$(BLAS_DIR) -lz -llzma -ljansson -lm -ldl

ENGINE_SRC := $(wildcard engine/*/*.c)
ENGINE_OBJ := $(ENGINE_SRC:%.c=$(BUILD)/%.o)
MODULE_SRC := $(filter-out bindings/main.c,$(wildcard bindings/*.c))
MODULE_OBJ := $(MODULE_SRC:%.c=$(BUILD)/%.o) $(BUILD)/bindings/scripts.o
MAIN_OBJ := $(BUILD)/bindings/main.o
SCRIPTS := $(wildcard scripts/perigee/*.lua)

all: $(BUILD)/perigee $(BUILD)/perigee.so

$(BUILD)/perigee: $(ENGINE_OBJ) $(MODULE_OBJ) $(MAIN_OBJ)
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LUA_LIBS) -ledit $(LIBS)

$(BUILD)/perigee.so: $(ENGINE_OBJ) $(MODULE_OBJ)
	$(CC) $(ALL_CFLAGS) -shared -o $@ $^ $(LIBS)

# The list of scripts is a file of its own, rewritten only when it changes: adding or removing one rebuilds the table.
$(BUILD)/bindings/scripts.list: FORCE
	@mkdir -p $(@D)
	@echo $(SCRIPTS) | cmp -s - $@ || echo $(SCRIPTS) > $@

$(BUILD)/bindings/scripts.c: $(SCRIPTS) tools/embed.lua $(BUILD)/bindings/scripts.list
	lua5.4 tools/embed.lua $(SCRIPTS) > $@.new
	@mv $@.new $@

$(BUILD)/bindings/scripts.o: $(BUILD)/bindings/scripts.c
	$(CC) $(ALL_CFLAGS) -c $< -o $@

$(BUILD)/bindings/%.o: bindings/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LUA_CFLAGS) -MMD -c $< -o $@

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -c $< -o $@

# The scalar functions as text, which the generator prints in front of generated code.
EMBEDDED := engine/codegen/kernel_abi.h engine/core/vmath.h engine/core/scalar.h engine/codegen/lanes.h
$(BUILD)/embedded_numerics.h: engine/codegen/embed.sh $(EMBEDDED)
	@mkdir -p $(@D)
	sh $^ > $@.new
	@mv $@.new $@
$(BUILD)/engine/codegen/generate.o: $(BUILD)/embedded_numerics.h

clean:
	rm -rf $(BUILD)

-include $(ENGINE_OBJ:.o=.d) $(MODULE_OBJ:.o=.d) $(MAIN_OBJ:.o=.d)
.PHONY: all clean FORCE
