# Perigee's build. `make` builds, `make test` tests, `make demo` runs the main experiment.
CC ?= gcc
ARCH ?= -march=native
BUILD ?= build
WARN = -Wall -Wextra -Werror
NUMERICS = -ffp-contract=off -fno-math-errno -fno-trapping-math
CFLAGS ?= -O3 -g
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(ARCH) $(NUMERICS) $(WARN) -fPIC -fopenmp -fvisibility=hidden -I. -I$(BUILD) $(SAN_FLAGS)
ifeq ($(SAN),1)
SAN_FLAGS = -fsanitize=address,undefined -fno-omit-frame-pointer
endif
SRC := $(wildcard engine/*/*.c)
OBJ := $(SRC:%.c=$(BUILD)/%.o)

all: $(OBJ)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -c $< -o $@

-include $(OBJ:.o=.d)
.PHONY: all
