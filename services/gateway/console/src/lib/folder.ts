/** Files that somebody chose or dropped, those in folders included, each with its place in the folder as its name. */

export interface Named {
  name: string;
  file: File;
}

/** Of a file input: the name is the place in the chosen folder, or the file's own. */
export function chosen(files: FileList | null): Named[] {
  return Array.from(files ?? [], (file) => ({ name: file.webkitRelativePath || file.name, file })).filter(isShown);
}

/** Of a drop. What is dropped has to be taken before the event is over; folders are read after it. */
export function dropped(data: DataTransfer | null): Promise<Named[]> {
  const taken = Array.from(data?.items ?? [], (item) => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }));
  return Promise.all(taken.map(namedOf)).then((found) => found.flat().filter(isShown));
}

/** A file that comes from no file system has no entry. */
function namedOf({ entry, file }: { entry: FileSystemEntry | null; file: File | null }): Promise<Named[]> {
  if (entry !== null) return filesOf(entry);
  return Promise.resolve(file === null ? [] : [{ name: file.name, file }]);
}

/** Hidden files are the system's (`.DS_Store`), not documents. */
function isShown({ name }: Named): boolean {
  return !name.split("/").some((part) => part.startsWith("."));
}

async function filesOf(entry: FileSystemEntry): Promise<Named[]> {
  if (isFile(entry)) {
    const file = await new Promise<File>((resolve, reject) => entry.file(resolve, reject));
    return [{ name: entry.fullPath.replace(/^\//, ""), file }];
  }
  if (!isFolder(entry)) return [];
  const reader = entry.createReader();
  const found: Named[] = [];
  for (;;) {
    // A part of the folder at a time, until there is none left.
    const part = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (part.length === 0) return found;
    for (const one of part) found.push(...(await filesOf(one)));
  }
}

function isFile(entry: FileSystemEntry): entry is FileSystemFileEntry {
  return entry.isFile;
}

function isFolder(entry: FileSystemEntry): entry is FileSystemDirectoryEntry {
  return entry.isDirectory;
}
