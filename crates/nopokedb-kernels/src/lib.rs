//! SIMD kernels of NoPokeDB.
