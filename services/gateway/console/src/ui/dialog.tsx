/** Modal dialogs on the browser's own <dialog>: focus stays inside, Escape closes, focus goes back. */

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { useActing } from "../lib/hooks";
import { Icon } from "./icon";
import { Button, Field, Problem } from "./parts";

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  isWide?: boolean;
}

export function Dialog({ title, onClose, children, isWide = false }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    // Else the focus is on the button that closes it.
    dialog.current?.querySelector<HTMLElement>(":is(input, textarea, select):enabled")?.focus();
    return () => {
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  const onClick = (event: MouseEvent) => {
    if (event.target === dialog.current) onClose();
  };
  return (
    <dialog ref={dialog} class={isWide ? "wide" : ""} aria-labelledby={id} onClose={onClose} onClick={onClick}>
      <div class="dialog">
        <header>
          <h2 id={id}>{title}</h2>
          <button type="button" class="icon-button" aria-label="Close" onClick={onClose}>
            <Icon name="close" />
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}

interface ConfirmProps {
  title: string;
  children: ComponentChildren;
  verb: string;
  isDangerous?: boolean;
  /** Asks for a reason, which has to be given. */
  needsReason?: boolean;
  onClose: () => void;
  /** The dialog closes when it succeeds. */
  onConfirm: (reason: string) => Promise<unknown>;
}

/** Asks before something that can't be taken back. */
export function Confirm(props: ConfirmProps) {
  const { title, children, verb, isDangerous = false, needsReason = false, onClose, onConfirm } = props;
  const [reason, setReason] = useState("");
  const acting = useActing();
  const submit = (event: Event) => {
    event.preventDefault();
    void acting.run(() => onConfirm(reason.trim())).then((isDone) => isDone && onClose());
  };
  return (
    <Dialog title={title} onClose={onClose}>
      <form onSubmit={submit}>
        <div class="dialog-text">{children}</div>
        {needsReason && (
          <Field label="Reason" help="It is recorded in the history.">
            {(ids) => (
              <textarea
                {...ids}
                rows={3}
                required
                maxLength={2000}
                value={reason}
                onInput={(event) => setReason(event.currentTarget.value)}
              />
            )}
          </Field>
        )}
        <Problem error={acting.error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button
            type="submit"
            variant={isDangerous ? "danger" : "primary"}
            isBusy={acting.isBusy}
            disabled={needsReason && reason.trim() === ""}
          >
            {verb}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}
