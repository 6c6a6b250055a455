import { useEffect, useState } from "preact/hooks";

/** Renders again when a value outside of the components has changed. */
export function useSyncExternalStore<T>(subscribe: (listener: () => void) => () => void, read: () => T): T {
  const [value, setValue] = useState(read);
  useEffect(() => {
    const update = () => setValue(() => read());
    update();
    return subscribe(update);
  }, []);
  return value;
}
