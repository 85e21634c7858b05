;; The ABI of core modules: the runtime writes the tool's name and its arguments (JSON) into memory from `interlock_alloc`, and
;; `interlock_call` returns address and length of a reply: a byte, 0 for a result (JSON) or 1 for an error (text), then the rest.
(module
  (import "interlock:capsule/log@0.1.0" "write" (func $log (param i64 i32 i32) (result i64)))
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 1024))
  (data (i32.const 0) "\00{\"hello\":")
  (data (i32.const 64) "somebody is greeted")

  (func $alloc (export "interlock_alloc") (param $length i32) (result i32) (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $length)))
    (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.div_u (local.get $length) (i32.const 65536)) (i32.const 1))))))
    (local.get $at))

  ;; There is only one tool, so its name is ignored. The arguments are returned as `{"hello": ARGUMENTS}`.
  (func (export "interlock_call")
    (param $name i32) (param $name_length i32) (param $arguments i32) (param $length i32) (result i64) (local $at i32)
    (drop (call $log (i64.const 1) (i32.const 64) (i32.const 19)))
    (local.set $at (call $alloc (i32.add (local.get $length) (i32.const 11))))
    (memory.copy (local.get $at) (i32.const 0) (i32.const 10))
    (memory.copy (i32.add (local.get $at) (i32.const 10)) (local.get $arguments) (local.get $length))
    (i32.store8 (i32.add (local.get $at) (i32.add (local.get $length) (i32.const 10))) (i32.const 125))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (i32.add (local.get $length) (i32.const 11))))))
