/** A value at hand, or the promise of one. */
export type Maybe<Value> = Value | Promise<Value>

/** Goes on with a value. One at hand costs no turn of the event loop, which an `await` always takes. */
export function chain<Value, Result> (value: Maybe<Value>, next: (value: Value) => Maybe<Result>): Maybe<Result> {
  return value instanceof Promise ? value.then(next) : next(value)
}
